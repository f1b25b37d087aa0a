-- verify::ledger::together
-- touches: coupon=all (a walk names one leaf at a time)
-- sample: select code_id - 1, 1::bigint from coupon limit 1
select
    c.code_id,
    c.rule_id,
    c.redemption_id,
    c.redeemed_at,
    c.rule_version,
    c.redeemed_store_no,
    c.state,
    c.uses,
    c.order_ref
from {coupon} c
where c.code_id > $1::bigint
order by c.code_id
limit $2::bigint
