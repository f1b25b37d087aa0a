-- coupon::store::insert_coupons
-- touches: coupon=1
-- route: coupon=$1
-- sample: select array[max(code_id) + 1], array[1::bigint], array[now()], array[now()], array[now()], array[null::bigint], array[1], array[null::integer], array[null::text],
--   array[1::smallint] from coupon having count(*) > 0
insert into {coupon} (
    code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version, issue_store_no, referrer,
    counted
)
select
    t.code_id, t.rule_id, t.issued_at, t.valid_from, t.valid_until, t.member_id, t.rule_version, t.issue_store_no,
    t.referrer, t.counted
from unnest(
    $1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[], $6::bigint[], $7::integer[],
    $8::integer[], $9::text[], $10::smallint[]
) with ordinality as t (
    code_id, rule_id, issued_at, valid_from, valid_until, member_id, rule_version, issue_store_no, referrer, counted,
    position
)
order by t.position
