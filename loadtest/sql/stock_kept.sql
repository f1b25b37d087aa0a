-- No more was issued than the rule allows: in all, by day, by store. $1 rules.
select format('rule %s, period %s, store %s: %s issued of %s', s.rule_id, s.period, s.store_no, s.issued - s.voided, m.most)
from coupon_stock s
join coupon_rule r on r.rule_id = s.rule_id
join coupon_rule_version v on v.rule_id = r.rule_id and v.version = r.version
cross join lateral (
    select case
        when s.period = 0 and s.store_no = 0 then v.stock
        when s.store_no = 0 then v.stock_per_day
        else v.stock_per_store
    end as most
) m
where s.rule_id = any($1) and s.issued - s.voided > m.most
