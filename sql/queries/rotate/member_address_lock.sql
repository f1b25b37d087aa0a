-- secret::rotate::pii
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
--   on conflict (member_id, address_id) do nothing
-- sample: select array[member_id] from member_address limit 1
select
    a.member_id,
    a.address_id::text,
    array[a.receiver, a.phone, a.detail, a.coordinates]
from {member_address} a
where a.member_id = any($1::bigint[])
order by a.member_id, a.address_id
for no key update of a
