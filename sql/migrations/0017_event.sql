-- The outbox: feeds and cache invalidation. `event_id` is UTC day << 41 | number; ids commit out of order, so readers
-- follow `xid` below the oldest running transaction.
create table event (
    event_id bigint not null,
    xid xid8 not null default pg_current_xact_id(),
    created_at timestamptz not null,
    subject bigint not null, -- id of what changed
    kind smallint not null, -- event::Kind
    body text, -- JSON; ids and masks only
    constraint event_pk primary key (event_id)
) partition by range (event_id);

-- Serves the tail.
create index event_xid on event (xid);
