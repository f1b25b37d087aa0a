-- verify::projection::RECEIVE
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id] from coupon_receive limit 1
select
    i.member_id,
    i.code_id,
    i.rule_id,
    i.valid_until,
    i.state,
    i.rule_version
from unnest($1::bigint[], $2::bigint[]) as t (member_id, code_id)
join {coupon_receive} i on i.member_id = t.member_id and i.code_id = t.code_id
where i.member_id = any($1::bigint[])
