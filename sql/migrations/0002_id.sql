-- Node numbers of the member id minter, leased for a while. Minting stops when the lease lapses.
create table id_node (
    lease_until timestamptz not null,
    holder uuid not null,
    node smallint not null,
    constraint id_node_pk primary key (node),
    constraint id_node_range check (node between 0 and 1023)
);

-- Counters leased in blocks: `coupon_serial`, `redemption`, `event`. Numbers are never reused; gaps are normal.
create table id_block (
    next bigint not null,
    name text not null,
    constraint id_block_pk primary key (name),
    constraint id_block_next_range check (next >= 0 and next < (1::bigint << 41))
);
insert into id_block (name, next) values ('coupon_serial', 1), ('redemption', 1), ('event', 1);
