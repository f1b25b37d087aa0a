-- member::erase::store::delete_family
-- touches: member_role=1
-- route: member_role=$1
-- given: insert into member_role (member_id, granted_at, system, role, granted_by)
--   select max(member_id), now(), 'sample', 'sample', 'sample' from member having count(*) > 0
--   on conflict do nothing
-- sample: select array[max(member_id)] from member_role having count(*) > 0
-- The member's row is locked.
delete from {member_role} x
where x.member_id = any($1::bigint[])
