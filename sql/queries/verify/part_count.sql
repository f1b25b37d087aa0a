-- verify::part::count_coupons
-- touches: coupon_index=1, coupon=1
-- route: coupon_index=$1, coupon=$2
-- sample: select array[rule_id], code_id >> 41 << 41, ((code_id >> 41) + 1) << 41 from coupon_index limit 1
-- The coupons of a rule that stand and were issued in a month, by the day and the store that they were taken from.
select
    i.rule_id,
    (c.code_id >> 41)::integer,
    coalesce(c.issue_store_no, 0),
    c.counted,
    count(1)
from {coupon_index} i
join {coupon} c on c.code_id = i.code_id
where i.rule_id = any($1::bigint[])
    and i.code_id >= $2::bigint
    and i.code_id < $3::bigint
    and c.code_id >= $2
    and c.code_id < $3
    and c.state <> 3
    and c.counted > 1
group by i.rule_id, (c.code_id >> 41)::integer, coalesce(c.issue_store_no, 0), c.counted
