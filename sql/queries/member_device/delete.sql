-- member::device::store::delete_device
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
-- sample: select array[member_id], array[device_no] from member_device limit 1
delete from {member_device} d
using (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as device_no
) as t
where d.member_id = t.member_id
    and d.member_id = any($1::bigint[])
    and d.device_no = t.device_no
