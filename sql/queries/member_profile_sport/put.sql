-- member::profile::store::put
-- touches: member_profile_sport=1
-- route: member_profile_sport=$1
-- given: insert into member_profile_sport (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0 on conflict do nothing
-- sample: select
--   array[member_id], array[created_at], array[updated_at], array[version], array[weight_g], array[height_mm],
--   array[sport_role], array[bio], array[region], array[school], array[grade], array[class]
--   from member_profile_sport limit 1
insert into {member_profile_sport} (
    member_id, created_at, updated_at, version, weight_g, height_mm, sport_role, bio, region, school, grade, class
)
select
    t.member_id, t.created_at, t.updated_at, t.version, t.weight_g, t.height_mm, t.sport_role, t.bio, t.region,
    t.school, t.grade, t.class
from unnest(
    $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::integer[], $6::smallint[],
    $7::smallint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[]
) with ordinality as t (
    member_id, created_at, updated_at, version, weight_g, height_mm, sport_role, bio, region, school, grade, class,
    position
)
order by t.position
on conflict (member_id) do update set
    updated_at = excluded.updated_at,
    version = excluded.version,
    weight_g = excluded.weight_g,
    height_mm = excluded.height_mm,
    sport_role = excluded.sport_role,
    bio = excluded.bio,
    region = excluded.region,
    school = excluded.school,
    grade = excluded.grade,
    class = excluded.class
