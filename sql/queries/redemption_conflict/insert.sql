-- coupon::offline::store::insert_conflicts
-- touches: redemption_conflict=1
-- route: redemption_conflict=$1
-- sample: select array[coalesce(max(conflict_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[now()],
--   array[now()], array[1::bigint], array[null::bigint], array[null::bigint], array[null::bigint], array[now()::date],
--   array[1], array[1], array['1'], array['x'], array['coupon_void'], array[null::text], array[null::text],
--   array[null::text] from redemption_conflict
insert into {redemption_conflict} (
    conflict_id, recorded_at, redeemed_at, amount, discount, code_id, member_id, business_date, store_no, sequence,
    register, order_ref, reason, code, currency, details
)
select
    t.conflict_id, t.recorded_at, t.redeemed_at, t.amount, t.discount, t.code_id, t.member_id, t.business_date,
    t.store_no, t.sequence, t.register, t.order_ref, t.reason, t.code, t.currency, t.details
from unnest(
    $1::bigint[], $2::timestamptz[], $3::timestamptz[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::date[], $9::integer[], $10::integer[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
    $16::text[]
) with ordinality as t (
    conflict_id, recorded_at, redeemed_at, amount, discount, code_id, member_id, business_date, store_no, sequence,
    register, order_ref, reason, code, currency, details, position
)
order by t.position
