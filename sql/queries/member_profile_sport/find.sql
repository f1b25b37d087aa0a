-- member::profile::store::list
-- touches: member_profile_sport=1
-- route: member_profile_sport=$1
-- given: insert into member_profile_sport (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id] from member_profile_sport limit 1
select
    s.member_id,
    s.created_at,
    s.updated_at,
    s.version,
    s.weight_g,
    s.height_mm,
    s.sport_role,
    s.bio,
    s.region,
    s.school,
    s.grade,
    s.class
from {member_profile_sport} s
where s.member_id = any($1::bigint[])
