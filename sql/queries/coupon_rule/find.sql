-- coupon::rule_store::find_rule
-- touches: none
select
    r.state,
    r.revision,
    r.created_at,
    r.updated_at,
    v.rule_id as "rule_id: RuleId",
    v.version,
    v.amount,
    v.threshold,
    v.stock,
    v.valid_from,
    v.valid_until,
    v.days_after_issue,
    v.per_member,
    v.discount,
    v.uses,
    v.currency,
    v.name
from coupon_rule r
join coupon_rule_version v on v.rule_id = r.rule_id and v.version = r.version
where r.rule_id = $1
