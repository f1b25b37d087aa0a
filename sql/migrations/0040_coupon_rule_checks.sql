alter table coupon_rule_version drop constraint coupon_rule_version_amount_positive;
alter table coupon_rule_version add constraint coupon_rule_version_discount check (
    case discount
        when 1 then amount > 0 and basis_points is null and cap is null and gift_sku is null
        when 2 then amount is null and basis_points between 1 and 10000 and gift_sku is null
        when 3 then amount >= 0 and basis_points is null and cap is null and gift_sku is null
        when 4 then amount >= 0 and basis_points is null and cap is null and gift_sku is not null
        else false
    end
);
alter table coupon_rule_version add constraint coupon_rule_version_cap_positive check (cap > 0);
alter table coupon_rule_version add constraint coupon_rule_version_limits check (
    budget >= 0 and budget_per_day >= 0 and budget_per_store >= 0 and stock_per_day >= 0 and stock_per_store >= 0
);
alter table coupon_rule_version add constraint coupon_rule_version_reversals check (reverse_days >= 0 and cycles_max >= 0);
