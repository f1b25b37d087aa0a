-- Rows of the ledger of these coupons and orders: $1 codes, $2 orders, $3 kinds.
select t.no, count(u.redemption_id)
from unnest($1::bigint[], $2::text[], $3::smallint[]) with ordinality as t (code_id, order_ref, kind, no)
left join redemption u on u.code_id = t.code_id and u.order_ref = t.order_ref and u.kind = t.kind
group by t.no
