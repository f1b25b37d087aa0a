-- verify::projection::RECEIVE
-- touches: coupon_receive=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from coupon_receive limit 1
select
    i.member_id,
    i.code_id,
    i.rule_id,
    i.valid_until,
    i.state,
    i.rule_version
from {coupon_receive} i
where i.ctid >= $1::text::tid and i.ctid < $2::text::tid
