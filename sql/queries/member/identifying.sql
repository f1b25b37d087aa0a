-- member::patch::identifies_a_person
-- touches: member_address=1, member_device=1, member_location=1, member_profile_mall=1
-- route: member_address=$1, member_device=$1, member_location=$1, member_profile_mall=$1
-- given: insert into member_profile_mall (member_id, created_at, updated_at, real_name)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do update set real_name = '\x00'
-- sample: select max(member_id) from member having count(*) > 0
-- How many rows of the family tell who the member is. The member's row is locked.
select count(*)
from (
    select a.member_id from {member_address} a where a.member_id = $1
    union all
    select d.member_id from {member_device} d where d.member_id = $1
    union all
    select l.member_id from {member_location} l where l.member_id = $1
    union all
    select p.member_id from {member_profile_mall} p
    where p.member_id = $1 and (p.real_name is not null or p.id_card is not null)
) found
