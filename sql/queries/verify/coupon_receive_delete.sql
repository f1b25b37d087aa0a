-- verify::projection::RECEIVE
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id] from coupon_receive limit 1
delete from {coupon_receive} i
where i.member_id = any($1::bigint[]) and i.code_id = any($2::bigint[])
