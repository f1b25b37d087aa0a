-- verify::ledger::drawn
-- touches: coupon=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from coupon limit 1
select
    c.code_id,
    c.uses > 0 or c.state = 2 or c.redemption_id is not null
from {coupon} c
where c.ctid >= $1::text::tid and c.ctid < $2::text::tid
