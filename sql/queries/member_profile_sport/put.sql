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
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as created_at,
        unnest($3::timestamptz[]) as updated_at,
        unnest($4::integer[]) as version,
        unnest($5::integer[]) as weight_g,
        unnest($6::smallint[]) as height_mm,
        unnest($7::smallint[]) as sport_role,
        unnest($8::text[]) as bio,
        unnest($9::text[]) as region,
        unnest($10::text[]) as school,
        unnest($11::text[]) as grade,
        unnest($12::text[]) as class,
        generate_subscripts($1::bigint[], 1) as position
) as t
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
