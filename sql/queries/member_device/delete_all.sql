-- member::erase::store::delete_family
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
--   on conflict do nothing
-- sample: select array[max(member_id)] from member_device having count(*) > 0
-- The member's row is locked.
delete from {member_device} x
where x.member_id = any($1::bigint[])
