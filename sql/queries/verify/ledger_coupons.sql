-- verify::ledger::chunk
-- touches: coupon=all (a walk names one leaf at a time)
-- sample: select code_id - 1, 1::bigint from coupon limit 1
select
    c.code_id,
    c.uses > 0 or c.state = 2 or c.redemption_id is not null
from {coupon} c
where c.code_id > $1::bigint
order by c.code_id
limit $2::bigint
