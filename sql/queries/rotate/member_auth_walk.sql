-- secret::rotate::pii
-- touches: member_auth=all (a walk names one leaf at a time)
-- given: insert into member_auth (member_id, bound_at, key, key_version, kind, identifier)
--   select max(member_id), now(), gen_random_uuid(), 1, 4, '\x00' from member having count(*) > 0
-- sample: select member_id - 1, 1::bigint from member_auth limit 1
select
    a.member_id,
    array[get_byte(a.identifier, 0)]
from {member_auth} a
where a.member_id > $1
order by a.member_id
fetch first $2 rows with ties
