-- coupon::store::lock_stocks
-- touches: coupon_stock=1
-- route: coupon_stock=$1
-- sample: select array[rule_id], array[-1], array[store_no] from coupon_stock limit 1
-- A row that does not exist cannot be locked, so that it is made at nought first.
insert into {coupon_stock} (rule_id, period, store_no)
select t.rule_id, t.period, t.store_no
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::integer[]) as period,
        unnest($3::integer[]) as store_no,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
on conflict (rule_id, period, store_no) do nothing
returning rule_id
