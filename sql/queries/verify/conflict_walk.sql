-- verify::conflict::chunk
-- touches: redemption_conflict=all (a walk names one leaf at a time)
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select conflict_id - 1, 1::bigint from redemption_conflict limit 1
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
where c.conflict_id > $1::bigint
order by c.conflict_id
limit $2::bigint
