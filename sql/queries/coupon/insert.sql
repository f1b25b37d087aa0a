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
from (
    select
        unnest($1::bigint[]) as code_id,
        unnest($2::bigint[]) as rule_id,
        unnest($3::timestamptz[]) as issued_at,
        unnest($4::timestamptz[]) as valid_from,
        unnest($5::timestamptz[]) as valid_until,
        unnest($6::bigint[]) as member_id,
        unnest($7::integer[]) as rule_version,
        unnest($8::integer[]) as issue_store_no,
        unnest($9::text[]) as referrer,
        unnest($10::smallint[]) as counted,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
