-- secret::rotate::pii
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id], array[''], array[phone], array[email], array[name], array[birthday] from member limit 1
-- The version stays: what the member is has not changed.
update {member} m
set
    phone = t.phone,
    email = t.email,
    name = t.name,
    birthday = t.birthday
from unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[], $6::bytea[])
    as t (member_id, rest, phone, email, name, birthday)
where m.member_id = t.member_id
    and m.member_id = any($1::bigint[])
    and t.rest = ''
