-- secret::rotate::pii
-- touches: member_address=all (a walk names one leaf at a time)
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
--   on conflict (member_id, address_id) do nothing
-- sample: select member_id - 1, 1::bigint from member_address limit 1
select
    a.member_id,
    array_remove(array[
        get_byte(a.receiver, 0),
        get_byte(a.phone, 0),
        get_byte(a.detail, 0),
        get_byte(a.coordinates, 0)
    ], null)
from {member_address} a
where a.member_id > $1
order by a.member_id
fetch first $2 rows with ties
