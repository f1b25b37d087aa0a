-- What a budget has spent is what the ledger gave: in all, by day, by store. $1 rules.
with given as (
    select u.rule_id, p.period, p.store_no, sum(u.discount - u.reversed)::bigint as given
    from redemption u
    cross join lateral (values
        (0, 0, 1), ((u.redemption_id >> 41)::integer, 0, 2), (0, u.store_no, 4)
    ) as p (period, store_no, bit)
    where u.rule_id = any($1) and u.kind = 1 and u.counted > 0 and u.counted::integer & p.bit <> 0
    group by u.rule_id, p.period, p.store_no
)
select format('rule %s, period %s, store %s: spent %s, the ledger gave %s', rule_id, period, store_no,
    coalesce(s.spent, 0), coalesce(g.given, 0))
from (select * from coupon_stock where rule_id = any($1)) s
full join given g using (rule_id, period, store_no)
where coalesce(s.spent, 0) <> coalesce(g.given, 0)
