-- member::family::delete_rows
-- touches: member_role=1
-- route: member_role=$1
-- given: insert into member_role (member_id, granted_at, system, role, granted_by)
--   select max(member_id), now(), 'sample', 'sample', 'prove' from member having count(*) > 0
-- sample: select array[member_id] from member_role limit 1
delete from {member_role} r
where r.member_id = any($1::bigint[])
