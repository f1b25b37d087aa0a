-- coupon::rule_store::insert_rule
-- touches: none
insert into coupon_rule_version (
    rule_id,
    created_at,
    amount,
    threshold,
    stock,
    valid_from,
    valid_until,
    version,
    days_after_issue,
    per_member,
    discount,
    uses,
    currency,
    name
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $11, $12, $13)
