-- coupon::store::claim_legacy
-- touches: coupon_history_index=1
-- route: coupon_history_index=$1
-- sample: select array[gen_random_uuid()], array[max(code_id)] from coupon having count(*) > 0
-- Old codes that are taken are left out of what comes back; one under way elsewhere is waited for.
insert into {coupon_history_index} (legacy_key, code_id)
select t.legacy_key, t.code_id
from unnest($1::uuid[], $2::bigint[]) with ordinality as t (legacy_key, code_id, position)
order by t.position
on conflict (legacy_key) do nothing
returning legacy_key
