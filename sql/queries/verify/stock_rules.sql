-- verify::count::stock_chunk
-- touches: coupon_stock=all (a walk names one leaf at a time)
-- sample: select rule_id - 1, 1::bigint from coupon_stock limit 1
select
    s.rule_id,
    s.issued - s.voided
from {coupon_stock} s
where s.rule_id > $1::bigint and s.period = 0 and s.store_no = 0
order by s.rule_id
limit $2::bigint
