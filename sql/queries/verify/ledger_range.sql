-- verify::ledger::uses_between
-- touches: redemption=all (a coupon is used in any month after its issue; one leaf is named at a time)
-- sample: select code_id - 1, code_id, 10::bigint from redemption limit 1
-- A stretch of codes is one descent into the index of a month, however many coupons it holds: a month in which none of
-- them was used costs next to nothing.
select
    r.redemption_id,
    r.code_id,
    coalesce(r.occurred_at, r.recorded_at) as recorded_at,
    r.amount,
    r.discount,
    r.reverses,
    r.reversed,
    r.returned,
    r.store_no,
    r.kind,
    r.reversed_whole,
    r.order_ref,
    r.lines
from {redemption} r
where r.code_id > $1::bigint and r.code_id <= $2::bigint
limit $3::bigint
