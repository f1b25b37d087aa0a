-- coupon::store::bind_coupons
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id], array[member_id] from coupon_index limit 1
update {coupon_index} i
set member_id = t.member_id
from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as t (rule_id, code_id, member_id)
where i.rule_id = t.rule_id
    and i.rule_id = any($1::bigint[])
    and i.code_id = t.code_id
