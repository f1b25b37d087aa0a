-- The order whose lock stands in each coupon's row, be its time up or not. $1 codes.
select c.code_id, c.lock_order from coupon c where c.code_id = any($1)
