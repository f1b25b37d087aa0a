-- Coupons of the run's rules, those of one remainder: $1 rules, $2 the remainder, $3 the divisor.
select i.code_id from coupon_index i where i.rule_id = any($1) and i.code_id % $3 = $2
