-- coupon::offline::store::find_recorded
-- touches: redemption_conflict=1
-- route: redemption_conflict=$1
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select array[(conflict_id >> 41) << 41], array[store_no], array[register], array[sequence]
--   from redemption_conflict limit 1
select
    c.conflict_id,
    c.store_no,
    c.register,
    c.sequence,
    c.code_id,
    c.code,
    c.amount,
    c.order_ref,
    c.reason
from (
    select
        unnest($1::bigint[]) as first_id,
        unnest($2::integer[]) as store_no,
        unnest($3::text[]) as register,
        unnest($4::integer[]) as sequence
) as t
join {redemption_conflict} c on c.store_no = t.store_no
    and c.conflict_id >= t.first_id
    and c.conflict_id < t.first_id + (1::bigint << 41)
    and c.register = t.register
    and c.sequence = t.sequence
