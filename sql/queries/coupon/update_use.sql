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
from unnest(
    $1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::smallint[], $7::smallint[],
    $8::smallint[], $9::text[], $10::text[], $11::bigint[], $12::text[]
) as t (
    code_id, redemption_id, redeemed_at, lock_until, redeemed_store_no, state, uses, cycles, lock_order, order_ref,
    member_id, void_reason
)
where c.code_id = t.code_id
    and c.code_id = any($1::bigint[])
