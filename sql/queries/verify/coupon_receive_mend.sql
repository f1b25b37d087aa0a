-- verify::projection::RECEIVE
-- touches: coupon_receive=1, coupon=1
-- route: coupon_receive=$1, coupon=$2
-- sample: select array[member_id], array[code_id] from coupon where member_id is not null limit 1
-- The row as its coupon, which is locked, says it should be.
insert into {coupon_receive} as i (member_id, code_id, rule_id, valid_until, state, rule_version)
select c.member_id, c.code_id, c.rule_id, c.valid_until, c.state, c.rule_version
from {coupon} c
where c.code_id = any($2::bigint[]) and c.member_id = any($1::bigint[])
on conflict (member_id, code_id) do update
set
    rule_id = excluded.rule_id,
    valid_until = excluded.valid_until,
    state = excluded.state,
    rule_version = excluded.rule_version
