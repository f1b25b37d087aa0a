-- Rows of the ledger of these coupons under a run's orders: $1 codes, $2 the beginning of its orders.
select u.redemption_id, u.code_id, u.kind, u.order_ref
from redemption u
where u.code_id = any($1) and starts_with(u.order_ref, $2)
