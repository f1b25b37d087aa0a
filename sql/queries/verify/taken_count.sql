-- verify::count::examine_taken
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id] from coupon_receive limit 1
select
    i.member_id,
    i.rule_id,
    count(1) filter (where i.state <> 3)
from {coupon_receive} i
where i.member_id = any($1::bigint[])
group by i.member_id, i.rule_id
