-- How far `tessera keys` has come, by step (`pii 2 member`, `fill 2`) and leaf, so that a killed one goes on there.
create table key_walk (
    updated_at timestamptz not null,
    after_id bigint,
    after_key uuid,
    seen bigint not null default 0,
    written bigint not null default 0,
    done boolean not null default false,
    step text not null,
    leaf text not null,
    constraint key_walk_pk primary key (step, leaf)
);
