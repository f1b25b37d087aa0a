-- The head of a rule: which version issuing uses now, and whether it may be issued and redeemed.
create table coupon_rule (
    rule_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version integer not null, -- the current row of coupon_rule_version
    revision integer not null default 1, -- counts every change, also of state: the ETag
    state smallint not null, -- 1 draft, 2 active, 3 paused, 4 ended
    constraint coupon_rule_pk primary key (rule_id),
    constraint coupon_rule_state_known check (state between 1 and 4)
);

-- What a rule says. Rows are never updated: an issued coupon keeps the version it was issued with.
create table coupon_rule_version (
    rule_id bigint not null,
    created_at timestamptz not null,
    amount bigint not null, -- of the discount, smallest unit of the currency
    threshold bigint not null default 0, -- least payable amount, smallest unit
    stock bigint, -- coupons in all; null is unlimited
    valid_from timestamptz,
    valid_until timestamptz, -- exclusive
    version integer not null,
    days_after_issue integer,
    per_member integer, -- coupons of this rule one member may take; null is unlimited
    discount smallint not null, -- 1 amount off
    uses smallint not null default 1,
    currency text not null,
    name text not null,
    constraint coupon_rule_version_pk primary key (rule_id, version),
    constraint coupon_rule_version_rule_fk foreign key (rule_id) references coupon_rule (rule_id) deferrable initially deferred,
    constraint coupon_rule_version_amount_positive check (amount > 0),
    constraint coupon_rule_version_threshold_range check (threshold >= 0),
    constraint coupon_rule_version_stock_range check (stock >= 0),
    constraint coupon_rule_version_per_member_range check (per_member > 0),
    constraint coupon_rule_version_uses_range check (uses > 0),
    constraint coupon_rule_version_validity check ((valid_until is not null) <> (days_after_issue is not null))
);
