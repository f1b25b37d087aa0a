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
from (
    select
        unnest($1::bigint[]) as conflict_id,
        unnest($2::timestamptz[]) as recorded_at,
        unnest($3::timestamptz[]) as redeemed_at,
        unnest($4::bigint[]) as amount,
        unnest($5::bigint[]) as discount,
        unnest($6::bigint[]) as code_id,
        unnest($7::bigint[]) as member_id,
        unnest($8::date[]) as business_date,
        unnest($9::integer[]) as store_no,
        unnest($10::integer[]) as sequence,
        unnest($11::text[]) as register,
        unnest($12::text[]) as order_ref,
        unnest($13::text[]) as reason,
        unnest($14::text[]) as code,
        unnest($15::text[]) as currency,
        unnest($16::text[]) as details,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
