-- secret::rotate::pii
-- touches: member_profile_mall=all (a walk names one leaf at a time)
-- given: insert into member_profile_mall (member_id, created_at, updated_at, real_name)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do nothing
-- sample: select member_id - 1, 1::bigint from member_profile_mall limit 1
select
    p.member_id,
    array_remove(array[
        get_byte(p.real_name, 0),
        get_byte(p.id_card, 0)
    ], null)
from {member_profile_mall} p
where p.member_id > $1
order by p.member_id
fetch first $2 rows with ties
