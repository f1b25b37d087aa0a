-- coupon::offline::store::find_recorded
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[(redemption_id >> 41) << 41], array[store_no], array[register], array[sequence], array[code_id]
--   from redemption where kind = 1 and register is not null and sequence is not null limit 1
-- By the coupon: a day of a store has many more rows. What is compared with `all(array[…])` no index serves, and leaves
-- are pruned by it all the same.
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
        unnest($4::integer[]) as sequence,
        unnest($5::bigint[]) as code_id
) as t
join {redemption} r on r.code_id = any(array[t.code_id])
    and r.redemption_id >= all(array[t.first_id])
    and r.redemption_id < all(array[t.first_id + (1::bigint << 41)])
    and r.store_no = all(array[t.store_no])
    and r.register = t.register
    and r.sequence = t.sequence
where r.kind = 1
