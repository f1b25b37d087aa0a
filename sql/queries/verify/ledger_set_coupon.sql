-- verify::ledger::mend
-- touches: coupon=1
-- route: coupon=$1
-- sample: select array[code_id], redemption_id, redeemed_at, redeemed_store_no, state, uses, order_ref from coupon limit 1
update {coupon} c
set
    redemption_id = $2::bigint,
    redeemed_at = $3::timestamptz,
    redeemed_store_no = $4::integer,
    state = $5::smallint,
    uses = $6::smallint,
    order_ref = $7::text,
    lock_until = case when $5::smallint = 1 then c.lock_until end,
    lock_order = case when $5::smallint = 1 then c.lock_order end
where c.code_id = any($1::bigint[])
