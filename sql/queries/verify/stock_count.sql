-- verify::count::examine_stock
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id] from coupon_index limit 1
select
    i.rule_id,
    count(1) filter (where i.state <> 3)
from {coupon_index} i
where i.rule_id = any($1::bigint[])
group by i.rule_id
