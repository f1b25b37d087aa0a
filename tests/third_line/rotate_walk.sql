-- secret::rotate::pii
-- touches: member_profile_fleet=all (a walk names one leaf at a time)
-- given: insert into member_profile_fleet (member_id, created_at, updated_at, plate)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do nothing
-- sample: select member_id - 1, 1::bigint from member_profile_fleet limit 1
select
    f.member_id,
    array_remove(array[get_byte(f.plate, 0)], null)
from {member_profile_fleet} f
where f.member_id > $1
order by f.member_id
fetch first $2 rows with ties
