-- member::store::update_member
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id], array[version], array[updated_at], array[phone_bound_at], array[email_bound_at],
--   array[erased_at], array[home_store_no], array[state], array[kind], array[gender], array[level], array[muted],
--   array[phone], array[email], array[name], array[birthday], array[nickname], array[signature],
--   array[attributes::text], array[avatar::text],
--   array[phone_verified_at], array[email_verified_at] from member limit 1
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
    avatar = t.avatar::jsonb,
    phone_verified_at = t.phone_verified_at,
    email_verified_at = t.email_verified_at
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::integer[]) as version,
        unnest($3::timestamptz[]) as updated_at,
        unnest($4::timestamptz[]) as phone_bound_at,
        unnest($5::timestamptz[]) as email_bound_at,
        unnest($6::timestamptz[]) as erased_at,
        unnest($7::integer[]) as home_store_no,
        unnest($8::smallint[]) as state,
        unnest($9::smallint[]) as kind,
        unnest($10::smallint[]) as gender,
        unnest($11::smallint[]) as level,
        unnest($12::boolean[]) as muted,
        unnest($13::bytea[]) as phone,
        unnest($14::bytea[]) as email,
        unnest($15::bytea[]) as name,
        unnest($16::bytea[]) as birthday,
        unnest($17::text[]) as nickname,
        unnest($18::text[]) as signature,
        unnest($19::text[]) as attributes,
        unnest($20::text[]) as avatar,
        unnest($21::timestamptz[]) as phone_verified_at,
        unnest($22::timestamptz[]) as email_verified_at
) as t
where m.member_id = t.member_id
    and m.member_id = any($1::bigint[])
    and m.version = t.version
