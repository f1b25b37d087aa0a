-- coupon::store::insert_coupons
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id + 1], array[rule_id], array[valid_until], array[state], array[rule_version]
--   from coupon_receive limit 1
insert into {coupon_receive} (member_id, code_id, rule_id, valid_until, state, rule_version)
select t.member_id, t.code_id, t.rule_id, t.valid_until, t.state, t.rule_version
from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::smallint[], $6::integer[])
    with ordinality as t (member_id, code_id, rule_id, valid_until, state, rule_version, position)
order by t.position
