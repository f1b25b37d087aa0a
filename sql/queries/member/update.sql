-- member::store::update_member
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id], array[version], array[updated_at], array[phone_bound_at], array[email_bound_at],
--   array[erased_at], array[home_store_no], array[state], array[kind], array[gender], array[level], array[muted],
--   array[phone], array[email], array[name], array[birthday], array[nickname], array[signature],
--   array[attributes::text], array[avatar::text] from member limit 1
-- The version that was read goes in: a row that has another is not reached, which the caller counts.
update {member} m
set
    version = t.version + 1,
    updated_at = t.updated_at,
    phone_bound_at = t.phone_bound_at,
    email_bound_at = t.email_bound_at,
    erased_at = t.erased_at,
    home_store_no = t.home_store_no,
    state = t.state,
    kind = t.kind,
    gender = t.gender,
    level = t.level,
    muted = t.muted,
    phone = t.phone,
    email = t.email,
    name = t.name,
    birthday = t.birthday,
    nickname = t.nickname,
    signature = t.signature,
    attributes = t.attributes::jsonb,
    avatar = t.avatar::jsonb
from unnest(
    $1::bigint[], $2::integer[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
    $7::integer[], $8::smallint[], $9::smallint[], $10::smallint[], $11::smallint[], $12::boolean[], $13::bytea[],
    $14::bytea[], $15::bytea[], $16::bytea[], $17::text[], $18::text[], $19::text[], $20::text[]
) as t (
    member_id, version, updated_at, phone_bound_at, email_bound_at, erased_at, home_store_no, state, kind, gender, level,
    muted, phone, email, name, birthday, nickname, signature, attributes, avatar
)
where m.member_id = t.member_id
    and m.member_id = any($1::bigint[])
    and m.version = t.version
