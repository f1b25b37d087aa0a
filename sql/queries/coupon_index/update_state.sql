-- coupon::store::update_coupons
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id], array[state] from coupon_index limit 1
update {coupon_index} i
set
    state = t.state
from unnest($1::bigint[], $2::bigint[], $3::smallint[]) as t (rule_id, code_id, state)
where i.rule_id = t.rule_id
    and i.rule_id = any($1::bigint[])
    and i.code_id = t.code_id
