-- secret::rotate::pii
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id, device_no) do nothing
-- sample: select array[member_id] from member_device limit 1
select
    d.member_id,
    d.device_no::text,
    array[d.device_id, d.push_token]
from {member_device} d
where d.member_id = any($1::bigint[])
order by d.member_id, d.device_no
for no key update of d
