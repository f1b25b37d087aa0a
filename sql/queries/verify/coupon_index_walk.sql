-- verify::projection::INDEX
-- touches: coupon_index=all (a walk names one leaf at a time)
-- sample: select rule_id, code_id - 1, 1::bigint from coupon_index limit 1
select
    i.rule_id,
    i.code_id,
    i.valid_until,
    i.member_id,
    i.state,
    i.referrer
from {coupon_index} i
where $1::bigint is null or (i.rule_id, i.code_id) > ($1, $2::bigint)
order by i.rule_id, i.code_id
limit $3::bigint
