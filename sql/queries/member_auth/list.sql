-- member::binding::store::find_auths
-- touches: member_auth=1
-- route: member_auth=$1
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 3, '\x00' from member having count(*) > 0
-- sample: select array[member_id] from member_auth limit 1
select
    a.member_id,
    a.bound_at,
    a.verified_at,
    a.key,
    a.kind,
    a.source,
    a.identifier
from {member_auth} a
where a.member_id = any($1::bigint[])
order by a.member_id, a.bound_at, a.key
