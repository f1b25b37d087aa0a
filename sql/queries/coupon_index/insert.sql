-- coupon::store::insert_coupons
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select array[rule_id], array[code_id + 1], array[valid_until], array[member_id], array[state], array[referrer] from coupon_index limit 1
insert into {coupon_index} (rule_id, code_id, valid_until, member_id, state, referrer)
select t.rule_id, t.code_id, t.valid_until, t.member_id, t.state, t.referrer
from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::bigint[], $5::smallint[], $6::text[])
    with ordinality as t (rule_id, code_id, valid_until, member_id, state, referrer, position)
order by t.position
