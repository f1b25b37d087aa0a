-- A store of the chain. `store_no` is the narrow number that ledgers carry; `store_id` is what people and tills say.
create table store (
    created_at timestamptz not null,
    updated_at timestamptz not null,
    store_no integer not null generated always as identity,
    version integer not null default 1,
    state smallint not null default 1, -- 1 open, 2 closed
    store_id text not null,
    name text not null,
    time_zone text, -- IANA name; null is the chain's business zone
    constraint store_pk primary key (store_no),
    constraint store_id_unique unique (store_id),
    constraint store_state_known check (state in (1, 2))
);
