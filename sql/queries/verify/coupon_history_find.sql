-- verify::projection::HISTORY
-- touches: coupon_history_index=1
-- route: coupon_history_index=$1
-- sample: select array[legacy_key] from coupon_history_index limit 1
select
    i.legacy_key,
    i.code_id
from {coupon_history_index} i
where i.legacy_key = any($1::uuid[])
