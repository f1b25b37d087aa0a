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
from (
    select
        unnest($1::bigint[]) as redemption_id,
        unnest($2::bigint[]) as code_id,
        unnest($3::bigint[]) as rule_id,
        unnest($4::timestamptz[]) as recorded_at,
        unnest($5::bigint[]) as amount,
        unnest($6::bigint[]) as discount,
        unnest($7::bigint[]) as member_id,
        unnest($8::bigint[]) as reverses,
        unnest($9::integer[]) as rule_version,
        unnest($10::integer[]) as store_no,
        unnest($11::integer[]) as sequence,
        unnest($12::smallint[]) as kind,
        unnest($13::text[]) as register,
        unnest($14::text[]) as order_ref,
        unnest($15::smallint[]) as counted,
        unnest($16::text[]) as lines,
        unnest($17::timestamptz[]) as occurred_at,
        unnest($18::boolean[]) as reversed_whole,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
