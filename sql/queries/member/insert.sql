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
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as created_at,
        unnest($3::timestamptz[]) as phone_bound_at,
        unnest($4::timestamptz[]) as email_bound_at,
        unnest($5::integer[]) as home_store_no,
        unnest($6::smallint[]) as gender,
        unnest($7::smallint[]) as source,
        unnest($8::bytea[]) as phone,
        unnest($9::bytea[]) as email,
        unnest($10::bytea[]) as name,
        unnest($11::bytea[]) as birthday,
        unnest($12::text[]) as nickname,
        unnest($13::text[]) as signature,
        unnest($14::text[]) as attributes,
        unnest($15::text[]) as avatar,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
