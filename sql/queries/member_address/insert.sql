-- member::address::store::insert_address
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
-- sample: select
--   array[member_id], array[address_id + 1], array[created_at], array[updated_at],
--   array[version], array[false], array[receiver], array[phone], array[detail],
--   array[coordinates], array[province], array[city], array[district], array[postcode], array[label]
--   from member_address limit 1
insert into {member_address} (
    member_id, address_id, created_at, updated_at, version, is_default, receiver, phone,
    detail, coordinates, province, city, district, postcode, label
)
select
    t.member_id, t.address_id, t.created_at, t.updated_at, t.version, t.is_default,
    t.receiver, t.phone, t.detail, t.coordinates, t.province, t.city, t.district, t.postcode, t.label
from unnest(
    $1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::boolean[], $7::bytea[],
    $8::bytea[], $9::bytea[], $10::bytea[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[]
) with ordinality as t (
    member_id, address_id, created_at, updated_at, version, is_default, receiver, phone,
    detail, coordinates, province, city, district, postcode, label, position
)
order by t.position
