-- coupon::validate::FindStock
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], array[period], array[store_no] from coupon_stock limit 1
select
    s.rule_id,
    s.issued,
    s.voided,
    s.spent,
    s.period,
    s.store_no
from unnest($1::bigint[], $2::integer[], $3::integer[]) as t (rule_id, period, store_no)
join {coupon_stock} s on s.rule_id = t.rule_id and s.period = t.period and s.store_no = t.store_no
where s.rule_id = any($1::bigint[])
