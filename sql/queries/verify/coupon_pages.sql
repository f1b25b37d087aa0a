-- verify::projection::COUPON
-- touches: coupon=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from coupon limit 1
select
    c.code_id,
    c.rule_id,
    c.valid_until,
    c.member_id,
    c.legacy_key,
    c.state,
    c.referrer,
    c.rule_version
from {coupon} c
where c.ctid >= $1::text::tid and c.ctid < $2::text::tid
