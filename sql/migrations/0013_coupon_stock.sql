-- What has been taken of a rule: one row per period and store, (0, 0) is the whole rule.
-- issued - voided = living rows in coupon_index + retired.
create table coupon_stock (
    rule_id bigint not null,
    issued bigint not null default 0,
    voided bigint not null default 0,
    retired bigint not null default 0, -- of issued - voided: rows whose month was retired
    period integer not null default 0, -- 0 or business day since 2000-01-01
    store_no integer not null default 0,
    constraint coupon_stock_pk primary key (rule_id, period, store_no),
    constraint coupon_stock_counts check (issued >= 0 and voided >= 0 and voided <= issued and retired >= 0)
) partition by hash (rule_id);
