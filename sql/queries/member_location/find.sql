-- member::family::rows
-- touches: member_location=1
-- route: member_location=$1
-- given: insert into member_location (member_id, updated_at)
--   select max(member_id), now() from member having count(*) > 0 on conflict do nothing
-- sample: select array[member_id] from member_location limit 1
select
    l.member_id,
    l.updated_at,
    l.coordinates,
    l.nation,
    l.province,
    l.city,
    l.district
from {member_location} l
where l.member_id = any($1::bigint[])
