-- coupon::store::update_stocks
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], array[period], array[store_no], array[issued], array[voided],
--   array[spent] from coupon_stock limit 1
update {coupon_stock} s
set
    issued = t.issued,
    voided = t.voided,
    spent = t.spent
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::integer[]) as period,
        unnest($3::integer[]) as store_no,
        unnest($4::bigint[]) as issued,
        unnest($5::bigint[]) as voided,
        unnest($6::bigint[]) as spent
) as t
where s.rule_id = any(array[t.rule_id])
    and s.period = t.period
    and s.store_no = t.store_no
