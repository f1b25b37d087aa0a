-- Coupons that answers told of, and are not there as they were told: $1 codes, $2 rules, $3 holders.
select format('coupon %s of rule %s for member %s: %s', t.code_id, t.rule_id, t.member_id,
    case when c.code_id is null then 'not there' else 'otherwise there' end)
from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as t (code_id, rule_id, member_id)
left join coupon c on c.code_id = t.code_id
where c.code_id is null or c.rule_id <> t.rule_id or c.member_id is distinct from t.member_id
