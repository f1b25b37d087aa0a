-- The ledger of uses and undos. `redemption_id` is business day << 41 | number.
create table redemption (
    redemption_id bigint not null,
    code_id bigint not null,
    rule_id bigint not null,
    recorded_at timestamptz not null,
    amount bigint not null, -- payable before the discount, smallest unit
    discount bigint not null, -- given by this use, or taken back by this undo
    member_id bigint,
    reverses bigint, -- the redemption this row undoes; null for a use
    reversed bigint not null default 0, -- of discount, taken back so far
    rule_version integer not null,
    store_no integer not null,
    sequence integer,
    kind smallint not null, -- 1 redeem, 2 reverse
    reversed_whole boolean not null default false,
    register text,
    order_ref text not null,
    constraint redemption_pk primary key (redemption_id),
    constraint redemption_kind_known check (kind in (1, 2)),
    constraint redemption_reversed_range check (reversed >= 0 and reversed <= discount)
) partition by range (redemption_id);

-- Serves the uses of one coupon: its history and the comparison of coupon.uses with the ledger.
create index redemption_code on redemption (code_id);
