-- coupon::rule_store::update_state
-- touches: none
update coupon_rule
set state = $3,
    revision = revision + 1,
    updated_at = $2
where rule_id = $1
