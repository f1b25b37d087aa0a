-- coupon::store::lock_free_coupons
-- touches: coupon=1
-- route: coupon=$1
-- sample: select array[code_id] from coupon limit 1
-- The rows are locked in the order of the array.
select
    c.code_id,
    c.rule_id,
    c.issued_at,
    c.valid_from,
    c.valid_until,
    c.member_id,
    c.redemption_id,
    c.redeemed_at,
    c.lock_until,
    c.legacy_key,
    c.rule_version,
    c.issue_store_no,
    c.redeemed_store_no,
    c.state,
    c.uses,
    c.cycles,
    c.counted,
    c.lock_order,
    c.order_ref,
    c.referrer,
    c.void_reason
from (
    select
        unnest($1::bigint[]) as code_id,
        generate_subscripts($1::bigint[], 1) as position
    order by position
) as t
cross join lateral (
    select
        c.code_id,
        c.rule_id,
        c.issued_at,
        c.valid_from,
        c.valid_until,
        c.member_id,
        c.redemption_id,
        c.redeemed_at,
        c.lock_until,
        c.legacy_key,
        c.rule_version,
        c.issue_store_no,
        c.redeemed_store_no,
        c.state,
        c.uses,
        c.cycles,
        c.counted,
        c.lock_order,
        c.order_ref,
        c.referrer,
        c.void_reason
    from {coupon} c
    where c.code_id = t.code_id
    for update
    skip locked
) as c
