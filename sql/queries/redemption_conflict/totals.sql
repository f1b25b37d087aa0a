-- coupon::totals::read
-- touches: redemption_conflict=1
-- route: redemption_conflict=$1
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select conflict_id, conflict_id + 1, store_no from redemption_conflict limit 1
select
    c.register,
    count(*) as conflicts,
    sum(c.amount)::bigint as amount,
    coalesce(sum(c.discount), 0)::bigint as discount
from {redemption_conflict} c
where c.store_no = $3::integer
    and c.conflict_id >= $1::bigint
    and c.conflict_id < $2::bigint
group by c.register
