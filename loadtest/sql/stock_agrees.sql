-- A rule's stock rows say how many coupons of it live: in all, by day of issue, by store. $1 rules.
with living as (
    select i.rule_id, p.period, p.store_no, count(*) filter (where i.state <> 3) as indexed,
        count(*) filter (where c.state <> 3) as coupons
    from coupon_index i
    left join coupon c on c.code_id = i.code_id
    cross join lateral (values
        (0, 0, 1), ((i.code_id >> 41)::integer, 0, 2), (0, coalesce(c.issue_store_no, 0), 4)
    ) as p (period, store_no, bit)
    where i.rule_id = any($1) and (p.bit = 1 or c.counted::integer & p.bit <> 0)
    group by i.rule_id, p.period, p.store_no
)
select format('rule %s, period %s, store %s: issued %s, void %s, retired %s, coupons %s, in its index %s', rule_id, period,
    store_no, coalesce(s.issued, 0), coalesce(s.voided, 0), coalesce(s.retired, 0), coalesce(l.coupons, 0),
    coalesce(l.indexed, 0))
from (select * from coupon_stock where rule_id = any($1)) s
full join living l using (rule_id, period, store_no)
where coalesce(s.issued - s.voided - s.retired, 0) <> coalesce(l.coupons, 0)
    or coalesce(l.coupons, 0) <> coalesce(l.indexed, 0)
