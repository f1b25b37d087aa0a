-- coupon::wallet::read::ListHeld
-- touches: coupon_receive=1
-- route: coupon_receive=$1
-- sample: select array[member_id], array[code_id + 1], array[50::bigint] from coupon_receive limit 1
-- The newest coupons of each member below a code, so many at most.
select
    t.position - 1 as position,
    n.code_id,
    n.rule_id,
    n.valid_until,
    n.state,
    n.rule_version
from unnest($1::bigint[], $2::bigint[], $3::bigint[]) with ordinality as t (member_id, before, rows_max, position)
cross join lateral (
    select
        r.code_id,
        r.rule_id,
        r.valid_until,
        r.state,
        r.rule_version
    from {coupon_receive} r
    where r.member_id = t.member_id
        and r.member_id = any($1::bigint[])
        and r.code_id < t.before
    order by r.code_id desc
    limit t.rows_max
) n
order by t.position, n.code_id desc
