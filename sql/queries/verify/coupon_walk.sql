-- verify::projection::COUPON
-- touches: coupon=all (a walk names one leaf at a time)
-- sample: select code_id - 1, 1::bigint from coupon limit 1
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
where $1::bigint is null or c.code_id > $1
order by c.code_id
limit $2::bigint
