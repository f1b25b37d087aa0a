-- verify::part::chunk
-- touches: coupon_stock=all (a walk names one leaf at a time)
-- sample: select rule_id - 1, 1::bigint from coupon_stock limit 1
select
    s.rule_id,
    coalesce(sum(s.issued - s.voided) filter (where s.period = 0 and s.store_no = 0), 0)::bigint
from {coupon_stock} s
where s.rule_id > $1::bigint
group by s.rule_id
order by s.rule_id
limit $2::bigint
