-- verify::ledger::load
-- touches: coupon=1
-- route: coupon=$1
-- sample: select array[code_id] from coupon limit 1
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
where c.code_id = any($1::bigint[])
