-- coupon::rule_store::insert_rule
-- touches: none
insert into coupon_rule (rule_id, created_at, updated_at, version, state)
values ($1, $2, $2, $3, $4)
