-- coupon::store::insert_coupons
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id + 1], array[rule_id], array[valid_until], array[state], array[rule_version]
--   from coupon_receive limit 1
insert into {coupon_receive} (member_id, code_id, rule_id, valid_until, state, rule_version)
select t.member_id, t.code_id, t.rule_id, t.valid_until, t.state, t.rule_version
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as code_id,
        unnest($3::bigint[]) as rule_id,
        unnest($4::timestamptz[]) as valid_until,
        unnest($5::smallint[]) as state,
        unnest($6::integer[]) as rule_version,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
