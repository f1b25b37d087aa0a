-- Regions of the chain: a tree, at most 8 deep. That it has no cycle is decided by whoever changes it, who holds the
-- table's lock meanwhile.
create table region (
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version integer not null default 1,
    state smallint not null default 1, -- 1 active, 2 retired: takes no more stores
    region_id text not null,
    parent_id text, -- null is a root
    name text not null,
    constraint region_pk primary key (region_id),
    constraint region_parent_fk foreign key (parent_id) references region (region_id),
    constraint region_state_known check (state in (1, 2)),
    constraint region_parent_another check (parent_id <> region_id)
);
-- For the stores of a region with all below it.
create index region_parent_ix on region (parent_id);
