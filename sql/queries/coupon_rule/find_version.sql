-- coupon::rule_store::find_version
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
from coupon_rule_version v
join coupon_rule r on r.rule_id = v.rule_id
where v.rule_id = $1
    and v.version = $2
