-- coupon::store::update_coupons
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id], array[state] from coupon_receive limit 1
update {coupon_receive} r
set
    state = t.state
from unnest($1::bigint[], $2::bigint[], $3::smallint[]) as t (member_id, code_id, state)
where r.member_id = t.member_id
    and r.member_id = any($1::bigint[])
    and r.code_id = t.code_id
