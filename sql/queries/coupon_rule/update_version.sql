-- coupon::rule_store::update_version
-- touches: none
update coupon_rule
set version = $3,
    revision = revision + 1,
    updated_at = $2
where rule_id = $1
