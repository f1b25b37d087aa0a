-- secret::rotate::pii
-- touches: member_auth=1
-- route: member_auth=$1
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 4, '\x00' from member having count(*) > 0
-- sample: select array[member_id], array[key::text], array[identifier] from member_auth limit 1
update {member_auth} a
set identifier = t.identifier
from unnest($1::bigint[], $2::text[], $3::bytea[]) as t (member_id, rest, identifier)
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.key = t.rest::uuid
