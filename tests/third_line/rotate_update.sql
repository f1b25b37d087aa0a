-- secret::rotate::pii
-- touches: member_profile_fleet=1
-- route: member_profile_fleet=$1
-- given: insert into member_profile_fleet (member_id, created_at, updated_at, plate)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do nothing
-- sample: select array[member_id], array[''], array[plate] from member_profile_fleet limit 1
update {member_profile_fleet} f
set plate = t.plate
from unnest($1::bigint[], $2::text[], $3::bytea[]) as t (member_id, rest, plate)
where f.member_id = t.member_id
    and f.member_id = any($1::bigint[])
    and t.rest = ''
