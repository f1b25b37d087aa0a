-- Serves the comparison of coupon_stock.spent with the ledger; uses of rules without a budget are not in it.
create index redemption_budget on only redemption (rule_id) where kind = 1 and counted > 0;
