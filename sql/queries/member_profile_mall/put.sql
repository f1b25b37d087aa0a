-- member::profile::store::put
-- touches: member_profile_mall=1
-- route: member_profile_mall=$1
-- given: insert into member_profile_mall (member_id, created_at, updated_at)
--   select max(member_id), now(), now() from member having count(*) > 0 on conflict do nothing
-- sample: select
--   array[member_id], array[created_at], array[updated_at], array[version], array[credit_score],
--   array[user_type], array[state], array[mall_role], array[real_name], array[id_card]
--   from member_profile_mall limit 1
insert into {member_profile_mall} (
    member_id, created_at, updated_at, version, credit_score, user_type, state, mall_role, real_name, id_card
)
select
    t.member_id, t.created_at, t.updated_at, t.version, t.credit_score, t.user_type, t.state, t.mall_role,
    t.real_name, t.id_card
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as created_at,
        unnest($3::timestamptz[]) as updated_at,
        unnest($4::integer[]) as version,
        unnest($5::integer[]) as credit_score,
        unnest($6::smallint[]) as user_type,
        unnest($7::smallint[]) as state,
        unnest($8::smallint[]) as mall_role,
        unnest($9::bytea[]) as real_name,
        unnest($10::bytea[]) as id_card,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
on conflict (member_id) do update set
    updated_at = excluded.updated_at,
    version = excluded.version,
    credit_score = excluded.credit_score,
    user_type = excluded.user_type,
    state = excluded.state,
    mall_role = excluded.mall_role,
    real_name = excluded.real_name,
    id_card = excluded.id_card
