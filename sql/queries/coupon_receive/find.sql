-- verify::projection::RECEIVE, coupon::warm::TouchReceived
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id] from coupon_receive limit 1
select
    i.member_id,
    i.code_id,
    i.rule_id,
    i.valid_until,
    i.state,
    i.rule_version
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as code_id
) as t
cross join lateral (
    select
        i.member_id,
        i.code_id,
        i.rule_id,
        i.valid_until,
        i.state,
        i.rule_version
    from {coupon_receive} i
    where i.member_id = t.member_id
        and i.code_id = t.code_id
    limit 1
) as i
