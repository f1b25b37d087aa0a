-- What rules may say besides amount off, a threshold and a stock.
alter table coupon_rule_version alter column amount drop not null; -- of amount_off, fixed_price and gift
alter table coupon_rule_version add column cap bigint; -- of percent_off: most that is taken off
alter table coupon_rule_version add column budget bigint; -- money in all, smallest unit; null is unlimited
alter table coupon_rule_version add column budget_per_day bigint;
alter table coupon_rule_version add column budget_per_store bigint;
alter table coupon_rule_version add column stock_per_day bigint;
alter table coupon_rule_version add column stock_per_store bigint;
alter table coupon_rule_version add column basis_points integer; -- of percent_off: hundredths of a percent
alter table coupon_rule_version add column reverse_days integer; -- a use may be taken back so long; null is for ever
alter table coupon_rule_version add column cycles_max smallint not null default 10; -- reversals of one coupon
alter table coupon_rule_version add column claimable boolean not null default false; -- members may take it themselves
alter table coupon_rule_version add column gift_sku text;
-- Stores by number, regions by id; null is all. A region means all stores below it.
alter table coupon_rule_version add column stores_in integer[];
alter table coupon_rule_version add column stores_out integer[];
alter table coupon_rule_version add column regions_in text[];
alter table coupon_rule_version add column regions_out text[];
