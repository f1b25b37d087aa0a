-- member::binding::store::delete_auths
-- touches: member_auth=1
-- route: member_auth=$1
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 3, '\x00' from member having count(*) > 0
-- sample: select array[member_id], array[key] from member_auth limit 1
-- The member's row is locked.
delete from {member_auth} a
using (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::uuid[]) as key
) as t
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.key = t.key
