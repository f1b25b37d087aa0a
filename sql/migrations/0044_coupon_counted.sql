-- Bits of the stock rows that the coupon was taken from, to which void gives it back: 1 rule, 2 day, 4 store.
alter table coupon add column counted smallint not null default 1;
alter table coupon add column void_reason text;
