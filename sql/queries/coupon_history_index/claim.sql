-- coupon::store::claim_legacy
-- touches: coupon_history_index=1
-- route: coupon_history_index=$1
-- sample: select array[gen_random_uuid()], array[max(code_id)] from coupon having count(*) > 0
-- Old codes that are taken are left out of what comes back; one under way elsewhere is waited for.
insert into {coupon_history_index} (legacy_key, code_id)
select t.legacy_key, t.code_id
from (
    select
        unnest($1::uuid[]) as legacy_key,
        unnest($2::bigint[]) as code_id,
        generate_subscripts($1::uuid[], 1) as position
) as t
order by t.position
on conflict (legacy_key) do nothing
returning legacy_key
