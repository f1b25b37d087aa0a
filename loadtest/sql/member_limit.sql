-- A member has taken of a rule what they hold of it, and not more than it allows; also who holds nothing of it. $1 rules.
with held as (
    select i.rule_id, i.member_id, count(*) filter (where h.state <> 3) as living
    from coupon_index i
    left join coupon_receive h on h.member_id = i.member_id and h.code_id = i.code_id
    where i.rule_id = any($1) and i.member_id is not null
    group by i.rule_id, i.member_id
),
beside as (
    select rule_id, member_id, coalesce(h.living, 0) as living, coalesce(t.taken, 0) as taken,
        coalesce(t.retired, 0) as retired
    from held h
    full join (select * from member_rule where rule_id = any($1)) t using (rule_id, member_id)
)
select format('rule %s, member %s: taken %s of %s, holds %s', b.rule_id, b.member_id, b.taken,
    coalesce(v.per_member::text, 'any'), b.living)
from beside b
join coupon_rule r on r.rule_id = b.rule_id
join coupon_rule_version v on v.rule_id = r.rule_id and v.version = r.version
where b.taken - b.retired <> b.living or b.taken > v.per_member
