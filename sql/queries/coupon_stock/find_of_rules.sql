-- coupon::bulk::find_stocks
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id] from coupon_stock limit 1
-- Of the whole rule and of each day: for a look, nothing is decided by it.
select
    s.rule_id,
    s.issued,
    s.voided,
    s.spent,
    s.period,
    s.store_no
from {coupon_stock} s
where s.rule_id = any($1::bigint[]) and s.store_no = 0
