-- Where a store is, when it does business, and whether its registers must be known.
alter table store
    add column region_id text,
    add column city text,
    add column address text,
    add column phone text,
    add column opened_on date,
    add column closed_on date, -- the business day on which it was closed; null while it is not
    add column registers smallint not null default 1, -- 1 any register may call, 2 only those in `register`
    drop constraint store_state_known,
    add constraint store_state_known check (state in (1, 2, 3)), -- 3 suspended: shut for a while
    add constraint store_registers_known check (registers in (1, 2)),
    add constraint store_region_fk foreign key (region_id) references region (region_id);
-- Closed before it was noted when: as of its last change.
update store set closed_on = updated_at::date where state = 2;
-- For the stores of a region.
create index store_region_ix on store (region_id);
