-- member::family::delete_rows
-- touches: member_profile_mall=1
-- route: member_profile_mall=$1
-- given: insert into member_profile_mall (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id] from member_profile_mall limit 1
delete from {member_profile_mall} m
where m.member_id = any($1::bigint[])
