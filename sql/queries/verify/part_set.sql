-- verify::part::mend
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], array[period], array[store_no], array[issued], array[spent] from coupon_stock limit 1
update {coupon_stock} s
set
    issued = t.issued,
    spent = t.spent
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::integer[]) as period,
        unnest($3::integer[]) as store_no,
        unnest($4::bigint[]) as issued,
        unnest($5::bigint[]) as spent
) as t
where s.rule_id = t.rule_id
    and s.rule_id = any($1::bigint[])
    and s.period = t.period
    and s.store_no = t.store_no
