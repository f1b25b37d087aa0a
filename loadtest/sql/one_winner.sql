-- Of those who asked for the last use of a coupon one got it: the use that the coupon names stands in the ledger under the
-- same order and store, and no single-use coupon has two. After a return of its last use a coupon of several names none.
-- $1 codes.
with used as (
    select u.code_id, count(*) filter (where not u.reversed_whole) as standing, count(*) filter (where u.reversed_whole) as undone
    from redemption u
    where u.code_id = any($1) and u.kind = 1
    group by u.code_id
)
select format('coupon %s: %s uses stand, it names %s of order %s', c.code_id, s.standing, coalesce(c.redemption_id::text, 'none'),
    coalesce(c.order_ref, 'none'))
from used s
join coupon c on c.code_id = s.code_id
join coupon_rule_version v on v.rule_id = c.rule_id and v.version = c.rule_version
left join redemption u on u.redemption_id = c.redemption_id
where s.standing > v.uses
    or (c.redemption_id is null and s.standing > 0 and (s.undone = 0 or c.state = 2))
    or (c.redemption_id is not null and (
        u.redemption_id is null or u.code_id <> c.code_id or u.order_ref is distinct from c.order_ref
        or u.store_no is distinct from c.redeemed_store_no or u.kind <> 1 or u.reversed_whole
    ))
