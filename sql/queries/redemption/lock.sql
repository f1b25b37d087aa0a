-- coupon::store::lock_redemptions
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[redemption_id] from redemption limit 1
select
    r.redemption_id,
    r.code_id,
    r.rule_id,
    r.recorded_at,
    r.occurred_at,
    r.amount,
    r.discount,
    r.member_id,
    r.reverses,
    r.reversed,
    r.returned,
    r.rule_version,
    r.store_no,
    r.sequence,
    r.kind,
    r.counted,
    r.reversed_whole,
    r.register,
    r.order_ref,
    r.lines
from (
    select
        unnest($1::bigint[]) as redemption_id,
        generate_subscripts($1::bigint[], 1) as position
    order by position
) as t
cross join lateral (
    select
        r.redemption_id,
        r.code_id,
        r.rule_id,
        r.recorded_at,
        r.occurred_at,
        r.amount,
        r.discount,
        r.member_id,
        r.reverses,
        r.reversed,
        r.returned,
        r.rule_version,
        r.store_no,
        r.sequence,
        r.kind,
        r.counted,
        r.reversed_whole,
        r.register,
        r.order_ref,
        r.lines
    from {redemption} r
    where r.redemption_id = t.redemption_id
    for update
) as r
