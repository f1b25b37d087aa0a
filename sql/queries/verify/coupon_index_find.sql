-- verify::projection::INDEX
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id] from coupon_index limit 1
select
    i.rule_id,
    i.code_id,
    i.valid_until,
    i.member_id,
    i.state,
    i.referrer
from unnest($1::bigint[], $2::bigint[]) as t (rule_id, code_id)
join {coupon_index} i on i.rule_id = t.rule_id and i.code_id = t.code_id
where i.rule_id = any($1::bigint[])
