-- Tills of a store.
create table register (
    created_at timestamptz not null,
    updated_at timestamptz not null,
    store_no integer not null,
    version integer not null default 1,
    state smallint not null default 1, -- 1 active, 2 retired
    register text not null, -- what the till calls itself
    name text,
    constraint register_pk primary key (store_no, register),
    constraint register_store_fk foreign key (store_no) references store (store_no),
    constraint register_state_known check (state in (1, 2))
);
