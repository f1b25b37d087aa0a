-- The order whose lock stands in each coupon's row, and whether its time is up. $1 codes.
select c.code_id, c.lock_order, coalesce(c.lock_until <= now(), false) from coupon c where c.code_id = any($1)
