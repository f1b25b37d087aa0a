-- A rule's stock row says how many coupons of it live. $1 rules.
with living as (
    select i.rule_id, count(*) filter (where i.state <> 3) as indexed, count(*) filter (where c.state <> 3) as coupons
    from coupon_index i
    left join coupon c on c.code_id = i.code_id
    where i.rule_id = any($1)
    group by i.rule_id
)
select format('rule %s: issued %s, void %s, retired %s, coupons %s, in its index %s', r.rule_id, coalesce(s.issued, 0),
    coalesce(s.voided, 0), coalesce(s.retired, 0), coalesce(l.coupons, 0), coalesce(l.indexed, 0))
from unnest($1::bigint[]) as r (rule_id)
left join coupon_stock s on s.rule_id = r.rule_id and s.period = 0 and s.store_no = 0
left join living l on l.rule_id = r.rule_id
where coalesce(s.issued - s.voided - s.retired, 0) <> coalesce(l.coupons, 0)
    or coalesce(l.coupons, 0) <> coalesce(l.indexed, 0)
