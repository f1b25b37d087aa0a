-- coupon::offline::store::list_conflicts
-- touches: redemption_conflict=1
-- route: redemption_conflict=$1
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select conflict_id, conflict_id + 1, 51::bigint from redemption_conflict where how is null limit 1
-- Of all stores those that wait for a decision, newest first.
select
    c.conflict_id,
    c.recorded_at,
    c.redeemed_at,
    c.amount,
    c.discount,
    c.code_id,
    c.member_id,
    c.resolved_at,
    c.business_date,
    c.store_no,
    c.sequence,
    c.version,
    c.how,
    c.register,
    c.order_ref,
    c.reason,
    c.code,
    c.currency,
    c.details,
    c.note,
    c.resolved_by
from {redemption_conflict} c
where c.conflict_id >= $1::bigint
    and c.conflict_id < $2::bigint
    and c.how is null
order by c.conflict_id desc
limit $3::bigint
