-- A member has taken of a rule what they hold of it, and not more than it allows. $1 rules.
with held as (
    select i.rule_id, i.member_id, count(*) filter (where h.state <> 3) as living
    from coupon_index i
    left join coupon_receive h on h.member_id = i.member_id and h.code_id = i.code_id
    where i.rule_id = any($1) and i.member_id is not null
    group by i.rule_id, i.member_id
)
select format('rule %s, member %s: taken %s of %s, holds %s', l.rule_id, l.member_id, coalesce(t.taken, 0),
    coalesce(v.per_member::text, 'any'), l.living)
from held l
join coupon_rule r on r.rule_id = l.rule_id
join coupon_rule_version v on v.rule_id = r.rule_id and v.version = r.version
left join member_rule t on t.member_id = l.member_id and t.rule_id = l.rule_id
where coalesce(t.taken - t.retired, 0) <> l.living or t.taken > v.per_member
