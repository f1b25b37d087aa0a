-- member::family::delete_rows
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
-- sample: select array[member_id] from member_device limit 1
delete from {member_device} d
where d.member_id = any($1::bigint[])
