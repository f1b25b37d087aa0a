-- verify::conflict::in_ledger
-- touches: redemption=all (a use lies in the month of its business day; the leaf of that of the conflicts is named)
-- sample: select array[code_id] from redemption where kind = 1 limit 1
select
    r.redemption_id,
    r.store_no,
    r.register,
    r.sequence,
    r.code_id,
    r.amount,
    r.order_ref
from {redemption} r
where r.code_id = any($1::bigint[])
    and r.kind = 1
