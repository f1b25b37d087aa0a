-- Coupons of the run's rules. $1 rules.
select i.code_id from coupon_index i where i.rule_id = any($1)
