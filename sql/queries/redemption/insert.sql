-- coupon::store::insert_redemptions
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[max(redemption_id) + 1], array[1::bigint], array[1::bigint], array[now()], array[2::bigint], array[1::bigint], array[null::bigint], array[null::bigint], array[1], array[1], array[null::integer], array[1::smallint], array[null::text], array['x'],
--   array[0::smallint], array[null::text], array[null::timestamptz], array[false] from redemption having count(*) > 0
insert into {redemption} (
    redemption_id, code_id, rule_id, recorded_at, amount, discount, member_id, reverses, rule_version, store_no,
    sequence, kind, register, order_ref, counted, lines, occurred_at, reversed_whole
)
select
    t.redemption_id, t.code_id, t.rule_id, t.recorded_at, t.amount, t.discount, t.member_id, t.reverses,
    t.rule_version, t.store_no, t.sequence, t.kind, t.register, t.order_ref, t.counted, t.lines,
    t.occurred_at, t.reversed_whole
from unnest(
    $1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::integer[], $10::integer[], $11::integer[], $12::smallint[], $13::text[], $14::text[],
    $15::smallint[], $16::text[], $17::timestamptz[], $18::boolean[]
) with ordinality as t (
    redemption_id, code_id, rule_id, recorded_at, amount, discount, member_id, reverses, rule_version, store_no,
    sequence, kind, register, order_ref, counted, lines, occurred_at, reversed_whole, position
)
order by t.position
