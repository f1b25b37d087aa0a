-- verify::conflict::chunk
-- touches: redemption_conflict=all (a sample names one leaf at a time)
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from redemption_conflict limit 1
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
where c.ctid >= $1::text::tid and c.ctid < $2::text::tid
