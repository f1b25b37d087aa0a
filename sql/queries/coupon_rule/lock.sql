-- coupon::rule_store::get_rule_for_update
-- touches: none
select r.rule_id
from coupon_rule r
where r.rule_id = $1
for update
