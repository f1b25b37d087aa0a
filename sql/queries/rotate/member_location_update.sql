-- secret::rotate::pii
-- touches: member_location=1
-- route: member_location=$1
-- given: insert into member_location (member_id, updated_at, coordinates)
--   select max(member_id), now(), '\x00' from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id], array[''], array[coordinates] from member_location limit 1
update {member_location} l
set coordinates = t.coordinates
from unnest($1::bigint[], $2::text[], $3::bytea[]) as t (member_id, rest, coordinates)
where l.member_id = t.member_id
    and l.member_id = any($1::bigint[])
