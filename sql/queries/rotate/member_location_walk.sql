-- secret::rotate::pii
-- touches: member_location=all (a walk names one leaf at a time)
-- given: insert into member_location (member_id, updated_at, coordinates)
--   select max(member_id), now(), '\x00' from member having count(*) > 0 on conflict do nothing
-- sample: select member_id - 1, 1::bigint from member_location limit 1
select
    l.member_id,
    array_remove(array[get_byte(l.coordinates, 0)], null)
from {member_location} l
where l.member_id > $1
order by l.member_id
fetch first $2 rows with ties
