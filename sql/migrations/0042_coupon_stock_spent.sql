-- Money that uses have taken and reversals have not given back, smallest unit. Rows of a period or a store exist only
-- for rules that limit it.
alter table coupon_stock add column spent bigint not null default 0;
alter table coupon_stock add constraint coupon_stock_spent_range check (spent >= 0);
