-- verify::projection::HISTORY
-- touches: coupon_history_index=1, coupon=1
-- route: coupon_history_index=$1, coupon=$2
-- given: update coupon set legacy_key = gen_random_uuid() where code_id = (select max(code_id) from coupon);
--   insert into coupon_history_index (legacy_key, code_id) select legacy_key, code_id from coupon where code_id = (select max(code_id) from coupon)
-- sample: select array[legacy_key], array[code_id] from coupon where legacy_key is not null limit 1
-- The row as its coupon, which is locked, says it should be.
insert into {coupon_history_index} as i (legacy_key, code_id)
select c.legacy_key, c.code_id
from {coupon} c
where c.code_id = any($2::bigint[]) and c.legacy_key = any($1::uuid[])
on conflict (legacy_key) do update
set
    code_id = excluded.code_id
