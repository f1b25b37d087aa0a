-- A coupon is used as often as the ledger says, and not more often than its rule allows. $1 codes.
with standing as (
    select u.code_id, count(*) as uses
    from redemption u
    where u.code_id = any($1) and u.kind = 1 and not u.reversed_whole
    group by u.code_id
)
select format('coupon %s: state %s, uses %s of %s, in the ledger %s', c.code_id, c.state, c.uses, v.uses,
    coalesce(s.uses, 0))
from coupon c
join coupon_rule_version v on v.rule_id = c.rule_id and v.version = c.rule_version
left join standing s on s.code_id = c.code_id
where c.code_id = any($1)
    and (c.uses <> coalesce(s.uses, 0) or c.uses > v.uses or (c.state = 2) <> (c.uses = v.uses) or (c.state = 3 and c.uses > 0))
