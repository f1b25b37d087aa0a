-- verify::count::examine_stock
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id] from coupon_stock limit 1
select
    s.rule_id,
    s.issued,
    s.voided,
    s.retired
from {coupon_stock} s
where s.rule_id = any($1::bigint[]) and s.period = 0 and s.store_no = 0
