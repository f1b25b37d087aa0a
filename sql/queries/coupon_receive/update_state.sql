-- coupon::store::update_coupons
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id], array[state] from coupon_receive limit 1
update {coupon_receive} r
set
    state = t.state
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as code_id,
        unnest($3::smallint[]) as state
) as t
where r.member_id = any(array[t.member_id])
    and r.code_id = t.code_id
