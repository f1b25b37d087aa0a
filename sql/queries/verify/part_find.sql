-- verify::part::rows
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id] from coupon_stock limit 1
select
    s.rule_id,
    s.issued,
    s.voided,
    s.retired,
    s.spent,
    s.period,
    s.store_no
from {coupon_stock} s
where s.rule_id = any($1::bigint[])
