-- verify::projection::HISTORY
-- touches: coupon_history_index=all (a sample names one leaf at a time)
-- given: update coupon set legacy_key = gen_random_uuid() where code_id = (select max(code_id) from coupon);
--   insert into coupon_history_index (legacy_key, code_id) select legacy_key, code_id from coupon where code_id = (select max(code_id) from coupon)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from coupon_history_index limit 1
select
    i.legacy_key,
    i.code_id
from {coupon_history_index} i
where i.ctid >= $1::text::tid and i.ctid < $2::text::tid
