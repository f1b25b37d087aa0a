-- verify::projection::COUPON
-- touches: coupon=1
-- route: coupon=$1
-- sample: select array[code_id] from coupon limit 1
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
where c.code_id = any($1::bigint[])
