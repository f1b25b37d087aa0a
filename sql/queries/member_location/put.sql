-- member::location::store::put_location
-- touches: member_location=1
-- route: member_location=$1
-- given: insert into member_location (member_id, updated_at)
--   select max(member_id), now() from member having count(*) > 0 on conflict do nothing
-- sample: select
--   array[member_id], array[updated_at], array[coordinates], array[nation], array[province],
--   array[city], array[district]
--   from member_location limit 1
insert into {member_location} (
    member_id, updated_at, coordinates, nation, province, city, district
)
select
    t.member_id, t.updated_at, t.coordinates, t.nation, t.province, t.city, t.district
from unnest(
    $1::bigint[], $2::timestamptz[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[]
) with ordinality as t (
    member_id, updated_at, coordinates, nation, province, city, district, position
)
order by t.position
on conflict (member_id) do update set
    updated_at = excluded.updated_at,
    coordinates = excluded.coordinates,
    nation = excluded.nation,
    province = excluded.province,
    city = excluded.city,
    district = excluded.district
