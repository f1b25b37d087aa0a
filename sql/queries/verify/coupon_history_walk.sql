-- verify::projection::HISTORY
-- touches: coupon_history_index=all (a walk names one leaf at a time)
-- given: update coupon set legacy_key = gen_random_uuid() where code_id = (select max(code_id) from coupon);
--   insert into coupon_history_index (legacy_key, code_id) select legacy_key, code_id from coupon where code_id = (select max(code_id) from coupon)
-- sample: select null::uuid, 1::bigint from coupon_history_index limit 1
select
    i.legacy_key,
    i.code_id
from {coupon_history_index} i
where $1::uuid is null or i.legacy_key > $1
order by i.legacy_key
limit $2::bigint
