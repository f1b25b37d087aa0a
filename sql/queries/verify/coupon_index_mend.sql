-- verify::projection::INDEX
-- touches: coupon_index=1, coupon=1
-- route: coupon_index=$1, coupon=$2
-- sample: select array[rule_id], array[code_id] from coupon limit 1
-- The row as its coupon, which is locked, says it should be.
insert into {coupon_index} as i (rule_id, code_id, valid_until, member_id, state, referrer)
select c.rule_id, c.code_id, c.valid_until, c.member_id, c.state, c.referrer
from {coupon} c
where c.code_id = any($2::bigint[]) and c.rule_id = any($1::bigint[])
on conflict (rule_id, code_id) do update
set
    valid_until = excluded.valid_until,
    member_id = excluded.member_id,
    state = excluded.state,
    referrer = excluded.referrer
