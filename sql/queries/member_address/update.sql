-- member::address::store::update_address
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
-- sample: select
--   array[member_id], array[address_id], array[created_at], array[updated_at],
--   array[version], array[is_default], array[receiver], array[phone], array[detail],
--   array[coordinates], array[province], array[city], array[district], array[postcode], array[label]
--   from member_address limit 1
-- The version that was read goes in: a row that has another is not reached, which the caller counts. It takes the same
-- columns as insert.
update {member_address} a
set
    version = t.version + 1,
    updated_at = t.updated_at,
    is_default = t.is_default,
    receiver = t.receiver,
    phone = t.phone,
    detail = t.detail,
    coordinates = t.coordinates,
    province = t.province,
    city = t.city,
    district = t.district,
    postcode = t.postcode,
    label = t.label
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as address_id,
        unnest($3::timestamptz[]) as created_at,
        unnest($4::timestamptz[]) as updated_at,
        unnest($5::integer[]) as version,
        unnest($6::boolean[]) as is_default,
        unnest($7::bytea[]) as receiver,
        unnest($8::bytea[]) as phone,
        unnest($9::bytea[]) as detail,
        unnest($10::bytea[]) as coordinates,
        unnest($11::text[]) as province,
        unnest($12::text[]) as city,
        unnest($13::text[]) as district,
        unnest($14::text[]) as postcode,
        unnest($15::text[]) as label
) as t
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.address_id = t.address_id
    and a.version = t.version
