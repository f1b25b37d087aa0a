-- coupon::offline::store::find_recorded
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[(redemption_id >> 41) << 41], array[store_no], array[register], array[sequence]
--   from redemption where kind = 1 and register is not null and sequence is not null limit 1
select
    r.redemption_id,
    r.store_no,
    r.register,
    r.sequence,
    r.code_id,
    r.amount,
    r.discount,
    r.order_ref
from (
    select
        unnest($1::bigint[]) as first_id,
        unnest($2::integer[]) as store_no,
        unnest($3::text[]) as register,
        unnest($4::integer[]) as sequence
) as t
join {redemption} r on r.store_no = t.store_no
    and r.redemption_id >= t.first_id
    and r.redemption_id < t.first_id + (1::bigint << 41)
    and r.register = t.register
    and r.sequence = t.sequence
where r.kind = 1
