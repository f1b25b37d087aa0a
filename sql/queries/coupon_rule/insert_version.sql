-- coupon::rule_store::insert_version
-- touches: none
insert into coupon_rule_version (
    rule_id,
    created_at,
    version,
    discount,
    amount,
    basis_points,
    cap,
    gift_sku,
    currency,
    name,
    threshold,
    stock,
    stock_per_day,
    stock_per_store,
    budget,
    budget_per_day,
    budget_per_store,
    valid_from,
    valid_until,
    days_after_issue,
    per_member,
    uses,
    reverse_days,
    cycles_max,
    claimable,
    stores_in,
    stores_out,
    regions_in,
    regions_out
)
values (
    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26,
    $27, $28, $29
)
