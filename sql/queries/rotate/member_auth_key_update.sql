-- secret::rotate::blind
-- touches: member_auth=1
-- route: member_auth=$1
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 4, '\x00' from member having count(*) > 0
-- sample: select array[member_id], array[key], array[gen_random_uuid()], array[2::smallint] from member_auth limit 1
update {member_auth} a
set
    key = t.key,
    key_version = t.key_version
from unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::smallint[]) as t (member_id, old_key, key, key_version)
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.key = t.old_key
