-- member::binding::store::update_auth_verified
-- touches: member_auth=1
-- route: member_auth=$1
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 3, '\x00' from member having count(*) > 0
-- sample: select array[member_id], array[key], array[now()] from member_auth limit 1
-- The member's row is locked.
update {member_auth} a
set verified_at = t.verified_at
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::uuid[]) as key,
        unnest($3::timestamptz[]) as verified_at
) as t
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.key = t.key
