-- verify::ledger::drawn
-- touches: redemption=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from redemption limit 1
select
    r.code_id,
    true
from {redemption} r
where r.ctid >= $1::text::tid and r.ctid < $2::text::tid
