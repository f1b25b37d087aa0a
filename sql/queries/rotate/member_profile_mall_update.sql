-- secret::rotate::pii
-- touches: member_profile_mall=1
-- route: member_profile_mall=$1
-- given: insert into member_profile_mall (member_id, created_at, updated_at, real_name)
--   select max(member_id), now(), now(), '\x00' from member having count(*) > 0
--   on conflict (member_id) do nothing
-- sample: select array[member_id], array[''], array[real_name], array[id_card] from member_profile_mall limit 1
update {member_profile_mall} p
set
    real_name = t.real_name,
    id_card = t.id_card
from unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[])
    as t (member_id, rest, real_name, id_card)
where p.member_id = t.member_id
    and p.member_id = any($1::bigint[])
    and t.rest = ''
