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
from unnest(
    $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::integer[], $5::integer[], $6::smallint[],
    $7::smallint[], $8::smallint[], $9::bytea[], $10::bytea[]
) with ordinality as t (
    member_id, created_at, updated_at, version, credit_score, user_type, state, mall_role, real_name, id_card,
    position
)
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
