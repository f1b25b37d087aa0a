-- secret::rotate::pii
-- touches: member_device=all (a walk names one leaf at a time)
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id, device_no) do nothing
-- sample: select member_id - 1, 1::bigint from member_device limit 1
select
    d.member_id,
    array_remove(array[
        get_byte(d.device_id, 0),
        get_byte(d.push_token, 0)
    ], null)
from {member_device} d
where d.member_id > $1
order by d.member_id
fetch first $2 rows with ties
