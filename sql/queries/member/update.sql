-- member::store::update_member
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id], array[version], array[updated_at], array[home_store_no], array[state],
--   array[gender], array[name], array[birthday], array[nickname], array[signature] from member limit 1
-- The version that was read goes in: a row that has another is not reached, which the caller counts.
update {member} m
set
    version = t.version + 1,
    updated_at = t.updated_at,
    home_store_no = t.home_store_no,
    state = t.state,
    gender = t.gender,
    name = t.name,
    birthday = t.birthday,
    nickname = t.nickname,
    signature = t.signature
from unnest(
    $1::bigint[], $2::integer[], $3::timestamptz[], $4::integer[], $5::smallint[], $6::smallint[], $7::bytea[],
    $8::bytea[], $9::text[], $10::text[]
) as t (member_id, version, updated_at, home_store_no, state, gender, name, birthday, nickname, signature)
where m.member_id = t.member_id
    and m.member_id = any($1::bigint[])
    and m.version = t.version
