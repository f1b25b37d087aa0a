-- member::profile::store::list
-- touches: member_profile_fleet=1
-- route: member_profile_fleet=$1
-- given: insert into member_profile_fleet (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id] from member_profile_fleet limit 1
select
    f.member_id,
    f.created_at,
    f.updated_at,
    f.version,
    f.rating,
    f.plate,
    f.vehicle
from {member_profile_fleet} f
where f.member_id = any($1::bigint[])
