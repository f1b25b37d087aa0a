-- secret::rotate::pii
-- touches: member_profile_mall=1
-- route: member_profile_mall=$1
-- given: insert into member_profile_mall (member_id, created_at, updated_at, real_name)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do nothing
-- sample: select array[member_id] from member_profile_mall limit 1
select
    p.member_id,
    '',
    array[p.real_name, p.id_card]
from {member_profile_mall} p
where p.member_id = any($1::bigint[])
order by p.member_id
for no key update of p
