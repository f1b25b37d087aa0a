-- What tills did offline and the ledger could not take: with the reason, and the store that bears it until it is decided.
-- `conflict_id` is business day << 41 | number, of the day of recording for one whose own day can hold nothing any more.
create table redemption_conflict (
    conflict_id bigint not null,
    recorded_at timestamptz not null,
    redeemed_at timestamptz not null, -- as the till says
    amount bigint not null, -- payable before the discount, smallest unit
    discount bigint, -- that the till took off, else what the rule gives; null when nobody knows
    code_id bigint, -- of a code that passes its check
    member_id bigint, -- as the till says
    resolved_at timestamptz,
    business_date date not null,
    store_no integer not null,
    sequence integer not null,
    version integer not null default 1,
    how smallint, -- coupon::offline::How; null while it is open
    register text not null,
    order_ref text not null,
    reason text not null, -- the name of a code of problem::Code
    code text, -- as it was sent, of one that fails its check
    currency text,
    details text, -- JSON: what the reason adds, such as which order had used it
    note text,
    resolved_by text, -- the caller's name
    constraint redemption_conflict_pk primary key (conflict_id),
    constraint redemption_conflict_resolved check ((how is null) = (resolved_at is null)),
    constraint redemption_conflict_code_short check (length(code) <= 64)
) partition by range (conflict_id);

-- Serves a store's list, its totals of a day, and the question whether an item was recorded before.
create index redemption_conflict_store on redemption_conflict (store_no, conflict_id);
