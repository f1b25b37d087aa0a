-- coupon::store::bind_coupons
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id], array[member_id] from coupon_index limit 1
update {coupon_index} i
set member_id = t.member_id
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::bigint[]) as code_id,
        unnest($3::bigint[]) as member_id
) as t
where i.rule_id = any(array[t.rule_id])
    and i.code_id = t.code_id
