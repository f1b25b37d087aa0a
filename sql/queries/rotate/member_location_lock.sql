-- secret::rotate::pii
-- touches: member_location=1
-- route: member_location=$1
-- given: insert into member_location (member_id, updated_at, coordinates)
--   select max(member_id), now(), '\x00' from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id] from member_location limit 1
select
    l.member_id,
    '',
    array[l.coordinates]
from {member_location} l
where l.member_id = any($1::bigint[])
order by l.member_id
for no key update of l
