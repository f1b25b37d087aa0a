-- verify::projection::RECEIVE
-- touches: coupon_receive=all (a walk names one leaf at a time)
-- sample: select member_id, code_id - 1, 1::bigint from coupon_receive limit 1
select
    i.member_id,
    i.code_id,
    i.rule_id,
    i.valid_until,
    i.state,
    i.rule_version
from {coupon_receive} i
where $1::bigint is null or (i.member_id, i.code_id) > ($1, $2::bigint)
order by i.member_id, i.code_id
limit $3::bigint
