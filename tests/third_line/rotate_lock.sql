-- secret::rotate::pii
-- touches: member_profile_fleet=1
-- route: member_profile_fleet=$1
-- given: insert into member_profile_fleet (member_id, created_at, updated_at, plate)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do nothing
-- sample: select array[member_id] from member_profile_fleet limit 1
select
    f.member_id,
    '',
    array[f.plate]
from {member_profile_fleet} f
where f.member_id = any($1::bigint[])
order by f.member_id
for no key update of f
