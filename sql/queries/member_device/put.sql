-- member::device::store::put_device
-- touches: member_device=1
-- route: member_device=$1
-- given: insert into member_device (member_id, device_no, created_at, seen_at, device_id)
--   select max(member_id), 1, now(), now(), '\x00' from member having count(*) > 0
-- sample: select
--   array[member_id], array[device_no], array[created_at], array[seen_at], array[vendor], array[client],
--   array[os], array[app_version], array[market], array[device_id], array[push_token]
--   from member_device limit 1
insert into {member_device} (
    member_id, device_no, created_at, seen_at, vendor, client, os, app_version, market, device_id, push_token
)
select
    t.member_id, t.device_no, t.created_at, t.seen_at, t.vendor, t.client, t.os, t.app_version, t.market,
    t.device_id, t.push_token
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as device_no,
        unnest($3::timestamptz[]) as created_at,
        unnest($4::timestamptz[]) as seen_at,
        unnest($5::text[]) as vendor,
        unnest($6::text[]) as client,
        unnest($7::text[]) as os,
        unnest($8::text[]) as app_version,
        unnest($9::text[]) as market,
        unnest($10::bytea[]) as device_id,
        unnest($11::bytea[]) as push_token,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
on conflict (member_id, device_no) do update set
    seen_at = excluded.seen_at,
    vendor = excluded.vendor,
    client = excluded.client,
    os = excluded.os,
    app_version = excluded.app_version,
    market = excluded.market,
    device_id = excluded.device_id,
    push_token = excluded.push_token
