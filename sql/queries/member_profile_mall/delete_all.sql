-- member::erase::store::delete_family
-- touches: member_profile_mall=1
-- route: member_profile_mall=$1
-- given: insert into member_profile_mall (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0
--   on conflict do nothing
-- sample: select array[max(member_id)] from member_profile_mall having count(*) > 0
-- The member's row is locked.
delete from {member_profile_mall} x
where x.member_id = any($1::bigint[])
