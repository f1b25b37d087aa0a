-- verify::conflict::examine
-- touches: redemption_conflict=1
-- route: redemption_conflict=$1
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select array[conflict_id] from redemption_conflict limit 1
select
    c.conflict_id,
    c.code_id,
    c.amount,
    c.business_date,
    c.store_no,
    c.sequence,
    c.register,
    c.order_ref,
    c.reason
from {redemption_conflict} c
where c.conflict_id = any($1::bigint[])
