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
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as updated_at,
        unnest($3::bytea[]) as coordinates,
        unnest($4::text[]) as nation,
        unnest($5::text[]) as province,
        unnest($6::text[]) as city,
        unnest($7::text[]) as district,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
on conflict (member_id) do update set
    updated_at = excluded.updated_at,
    coordinates = excluded.coordinates,
    nation = excluded.nation,
    province = excluded.province,
    city = excluded.city,
    district = excluded.district
