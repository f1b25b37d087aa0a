-- verify::count::mend_stock
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], issued from coupon_stock limit 1
update {coupon_stock} s
set
    issued = $2::bigint
where s.rule_id = any($1::bigint[]) and s.period = 0 and s.store_no = 0
