-- verify::count::stock_chunk
-- touches: coupon_index=all (a walk names one leaf at a time)
-- sample: select rule_id - 1, 1::bigint from coupon_index limit 1
-- Each rule once, by skipping from one to the next.
with recursive rules (rule_id) as (
    (select i.rule_id from {coupon_index} i where i.rule_id > $1::bigint order by i.rule_id limit 1)
    union all
    select (select j.rule_id from {coupon_index} j where j.rule_id > r.rule_id order by j.rule_id limit 1)
    from rules r
    where r.rule_id is not null
)
select rules.rule_id from rules where rules.rule_id is not null limit $2::bigint
