-- member::erase::store::delete_family
-- touches: member_location=1
-- route: member_location=$1
-- given: insert into member_location (member_id, updated_at)
--   select max(member_id), now() from member having count(*) > 0
--   on conflict do nothing
-- sample: select array[max(member_id)] from member_location having count(*) > 0
-- The member's row is locked.
delete from {member_location} x
where x.member_id = any($1::bigint[])
