-- verify::ledger::load
-- touches: redemption=all (a coupon is used in any month after its issue; one leaf is named at a time)
-- sample: select array[code_id] from redemption limit 1
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
where r.code_id = any($1::bigint[])
