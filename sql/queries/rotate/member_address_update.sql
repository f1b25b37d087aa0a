-- secret::rotate::pii
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
--   on conflict (member_id, address_id) do nothing
-- sample: select array[member_id], array[address_id::text], array[receiver], array[phone], array[detail],
--   array[coordinates] from member_address limit 1
update {member_address} a
set
    receiver = t.receiver,
    phone = t.phone,
    detail = t.detail,
    coordinates = t.coordinates
from unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[])
    as t (member_id, rest, receiver, phone, detail, coordinates)
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.address_id = t.rest::bigint
