-- coupon::store::update_coupons
-- touches: coupon=1
-- route: coupon=$1
-- sample: select array[code_id], array[redemption_id], array[redeemed_at], array[lock_until], array[redeemed_store_no], array[state], array[uses], array[cycles], array[lock_order], array[order_ref],
--   array[member_id], array[void_reason] from coupon limit 1
update {coupon} c
set
    redemption_id = t.redemption_id,
    redeemed_at = t.redeemed_at,
    lock_until = t.lock_until,
    redeemed_store_no = t.redeemed_store_no,
    state = t.state,
    uses = t.uses,
    cycles = t.cycles,
    lock_order = t.lock_order,
    order_ref = t.order_ref,
    member_id = t.member_id,
    void_reason = t.void_reason
from (
    select
        unnest($1::bigint[]) as code_id,
        unnest($2::bigint[]) as redemption_id,
        unnest($3::timestamptz[]) as redeemed_at,
        unnest($4::timestamptz[]) as lock_until,
        unnest($5::integer[]) as redeemed_store_no,
        unnest($6::smallint[]) as state,
        unnest($7::smallint[]) as uses,
        unnest($8::smallint[]) as cycles,
        unnest($9::text[]) as lock_order,
        unnest($10::text[]) as order_ref,
        unnest($11::bigint[]) as member_id,
        unnest($12::text[]) as void_reason
) as t
where c.code_id = any(array[t.code_id])
