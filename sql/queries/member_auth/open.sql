-- member::reveal::identifiers
-- touches: member_auth=1
-- route: member_auth=$1
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 3, '\x00' from member having count(*) > 0
-- sample: select array[member_id] from member_auth limit 1
select
    a.kind,
    a.identifier
from {member_auth} a
where a.member_id = any($1::bigint[])
order by a.kind, a.bound_at, a.key
