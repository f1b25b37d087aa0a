-- coupon::store::update_coupons
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id], array[state] from coupon_index limit 1
update {coupon_index} i
set
    state = t.state
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::bigint[]) as code_id,
        unnest($3::smallint[]) as state
) as t
where i.rule_id = any(array[t.rule_id])
    and i.code_id = t.code_id
