-- member::store::insert_member
-- touches: member=1
-- route: member=$1
-- sample: select array[max(member_id) + 1], array[now()], array[null::timestamptz], array[null::timestamptz],
--   array[null::integer], array[0::smallint], array[0::smallint], array[null::bytea], array[null::bytea],
--   array[null::bytea], array[null::bytea], array[null::text], array[null::text], array[null::text],
--   array[null::text] from member having count(*) > 0
insert into {member} (
    member_id, created_at, updated_at, phone_bound_at, email_bound_at, home_store_no, gender, source, phone, email, name,
    birthday, nickname, signature, attributes, avatar
)
select
    t.member_id, t.created_at, t.created_at, t.phone_bound_at, t.email_bound_at, t.home_store_no, t.gender, t.source,
    t.phone, t.email, t.name, t.birthday, t.nickname, t.signature, t.attributes::jsonb, t.avatar::jsonb
from unnest(
    $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::smallint[],
    $7::smallint[], $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[], $12::text[], $13::text[],
    $14::text[], $15::text[]
) with ordinality as t (
    member_id, created_at, phone_bound_at, email_bound_at, home_store_no, gender, source, phone, email, name, birthday,
    nickname, signature, attributes, avatar, position
)
order by t.position
