-- A coupon. `code_id` is issue day << 41 | serial, so the ranges by month are ranges by issue date.
create table coupon (
    code_id bigint not null,
    rule_id bigint not null,
    issued_at timestamptz not null,
    valid_from timestamptz not null,
    valid_until timestamptz not null, -- exclusive
    member_id bigint, -- the holder; null is anonymous
    redemption_id bigint, -- the last use that stands
    redeemed_at timestamptz, -- of that use
    lock_until timestamptz,
    legacy_key uuid, -- key of its row in coupon_history_index
    rule_version integer not null,
    issue_store_no integer, -- whose stock row it was taken from
    redeemed_store_no integer,
    state smallint not null default 1, -- 1 issued, 2 redeemed, 3 void
    uses smallint not null default 0,
    cycles smallint not null default 0, -- reversals so far
    lock_order text, -- order_ref that holds the lock until lock_until
    order_ref text, -- of the last use
    referrer text, -- referring employee
    constraint coupon_pk primary key (code_id),
    constraint coupon_state_known check (state between 1 and 3),
    constraint coupon_uses_range check (uses >= 0)
) partition by range (code_id);
