-- secret::rotate::pii
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id, device_no) do nothing
-- sample: select array[member_id], array[device_no::text], array[device_id], array[push_token] from member_device limit 1
update {member_device} d
set
    device_id = t.device_id,
    push_token = t.push_token
from unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[])
    as t (member_id, rest, device_id, push_token)
where d.member_id = t.member_id
    and d.member_id = any($1::bigint[])
    and d.device_no = t.rest::bigint
