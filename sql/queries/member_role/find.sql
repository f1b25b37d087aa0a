-- member::family::rows
-- touches: member_role=1
-- route: member_role=$1
-- given: insert into member_role (member_id, granted_at, system, role, granted_by)
--   select max(member_id), now(), 'sample', 'sample', 'prove' from member having count(*) > 0
-- sample: select array[member_id] from member_role limit 1
select
    r.member_id,
    r.granted_at,
    r.system,
    r.role,
    r.granted_by
from {member_role} r
where r.member_id = any($1::bigint[])
order by r.member_id, r.system, r.role
