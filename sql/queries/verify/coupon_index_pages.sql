-- verify::projection::INDEX
-- touches: coupon_index=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from coupon_index limit 1
select
    i.rule_id,
    i.code_id,
    i.valid_until,
    i.member_id,
    i.state,
    i.referrer
from {coupon_index} i
where i.ctid >= $1::text::tid and i.ctid < $2::text::tid
