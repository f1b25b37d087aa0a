-- Rows of the ledger that answers told of, and are not there as they were told: $1 redemptions, $2 codes, $3 kinds,
-- $4 orders, $5 amounts (null: not told), $6 discounts.
select format('%s of coupon %s, order %s: %s', case t.kind when 1 then 'redemption' else 'reversal' end || ' ' ||
    t.redemption_id, t.code_id, t.order_ref, case when u.redemption_id is null then 'not in the ledger' else 'otherwise in the ledger' end)
from unnest($1::bigint[], $2::bigint[], $3::smallint[], $4::text[], $5::bigint[], $6::bigint[])
    as t (redemption_id, code_id, kind, order_ref, amount, discount)
left join redemption u on u.redemption_id = t.redemption_id
where u.redemption_id is null
    or u.code_id <> t.code_id or u.kind <> t.kind or u.order_ref <> t.order_ref
    or u.amount <> t.amount or u.discount <> t.discount
