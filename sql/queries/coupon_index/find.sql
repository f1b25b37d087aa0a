-- verify::projection::INDEX, coupon::warm::TouchIndexed
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id] from coupon_index limit 1
select
    i.rule_id,
    i.code_id,
    i.valid_until,
    i.member_id,
    i.state,
    i.referrer
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::bigint[]) as code_id
) as t
cross join lateral (
    select
        i.rule_id,
        i.code_id,
        i.valid_until,
        i.member_id,
        i.state,
        i.referrer
    from {coupon_index} i
    where i.rule_id = t.rule_id
        and i.code_id = t.code_id
    limit 1
) as i
