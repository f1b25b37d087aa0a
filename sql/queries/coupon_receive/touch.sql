-- coupon::warm::TouchReceived
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id] from coupon_receive limit 1
select
    r.member_id,
    r.code_id,
    r.state
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as code_id
) as t
cross join lateral (
    select
        r.member_id,
        r.code_id,
        r.state
    from {coupon_receive} r
    where r.member_id = t.member_id
        and r.code_id = t.code_id
    limit 1
) as r
