-- coupon::store::insert_coupons
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id + 1], array[valid_until], array[member_id], array[state], array[referrer] from coupon_index limit 1
insert into {coupon_index} (rule_id, code_id, valid_until, member_id, state, referrer)
select t.rule_id, t.code_id, t.valid_until, t.member_id, t.state, t.referrer
from (
    select
        unnest($1::bigint[]) as rule_id,
        unnest($2::bigint[]) as code_id,
        unnest($3::timestamptz[]) as valid_until,
        unnest($4::bigint[]) as member_id,
        unnest($5::smallint[]) as state,
        unnest($6::text[]) as referrer,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
