-- coupon::validate::FindStock
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], array[period], array[store_no] from coupon_stock limit 1
select
    s.rule_id,
    s.issued,
    s.voided,
    s.spent,
    s.period,
    s.store_no
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::integer[]) as period,
        unnest($3::integer[]) as store_no
) as t
cross join lateral (
    select
        s.rule_id,
        s.issued,
        s.voided,
        s.spent,
        s.period,
        s.store_no
    from {coupon_stock} s
    where s.rule_id = t.rule_id
        and s.period = t.period
        and s.store_no = t.store_no
    limit 1
) as s
