-- member::profile::store::put
-- touches: member_profile_fleet=1
-- route: member_profile_fleet=$1
-- given: insert into member_profile_fleet (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id], array[created_at], array[updated_at], array[version], array[rating], array[plate],
--   array[vehicle] from member_profile_fleet limit 1
insert into {member_profile_fleet} (member_id, created_at, updated_at, version, rating, plate, vehicle)
select t.member_id, t.created_at, t.updated_at, t.version, t.rating, t.plate, t.vehicle
from unnest(
    $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::smallint[], $6::bytea[], $7::text[]
) with ordinality as t (member_id, created_at, updated_at, version, rating, plate, vehicle, position)
order by t.position
on conflict (member_id) do update set
    updated_at = excluded.updated_at,
    version = excluded.version,
    rating = excluded.rating,
    plate = excluded.plate,
    vehicle = excluded.vehicle
