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
        unnest($15::text[]) as label,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
