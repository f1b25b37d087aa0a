-- member::export::store::list_coupons
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select member_id, code_id - 1, 10::bigint from coupon_receive limit 1
select r.code_id
from {coupon_receive} r
where r.member_id = $1 and r.code_id > $2
order by r.code_id
limit $3
