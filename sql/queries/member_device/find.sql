-- member::family::rows
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
-- sample: select array[member_id] from member_device limit 1
select
    d.member_id,
    d.device_no,
    d.created_at,
    d.seen_at,
    d.vendor,
    d.client,
    d.os,
    d.app_version,
    d.market,
    d.device_id,
    d.push_token
from {member_device} d
where d.member_id = any($1::bigint[])
order by d.member_id, d.seen_at desc, d.device_no
