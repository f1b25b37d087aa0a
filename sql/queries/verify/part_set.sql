-- verify::part::mend
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], array[period], array[store_no], array[issued], array[spent] from coupon_stock limit 1
update {coupon_stock} s
set
    issued = t.issued,
    spent = t.spent
from unnest($1::bigint[], $2::integer[], $3::integer[], $4::bigint[], $5::bigint[])
    as t (rule_id, period, store_no, issued, spent)
where s.rule_id = t.rule_id
    and s.rule_id = any($1::bigint[])
    and s.period = t.period
    and s.store_no = t.store_no
