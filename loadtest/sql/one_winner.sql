-- Of those who asked for the last use of a coupon one got it: the use that the coupon names stands in the ledger under the
-- same order and store, and no single-use coupon has two. $1 codes.
with standing as (
    select u.code_id, count(*) as uses
    from redemption u
    where u.code_id = any($1) and u.kind = 1 and not u.reversed_whole
    group by u.code_id
)
select format('coupon %s: %s uses stand, it names %s of order %s', c.code_id, s.uses, coalesce(c.redemption_id::text, 'none'),
    coalesce(c.order_ref, 'none'))
from standing s
join coupon c on c.code_id = s.code_id
join coupon_rule_version v on v.rule_id = c.rule_id and v.version = c.rule_version
left join redemption u on u.redemption_id = c.redemption_id
where s.uses > v.uses
    or u.redemption_id is null
    or u.code_id <> c.code_id or u.order_ref <> c.order_ref or u.store_no <> c.redeemed_store_no
    or u.kind <> 1 or u.reversed_whole
