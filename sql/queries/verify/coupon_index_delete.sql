-- verify::projection::INDEX
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id] from coupon_index limit 1
delete from {coupon_index} i
where i.rule_id = any($1::bigint[]) and i.code_id = any($2::bigint[])
