-- The base row of a person. What identifies a person is encrypted (secret.rs); phone and e-mail stand here as the
-- base of their rows in member_key, every other identifier in member_auth.
create table member (
    member_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    phone_bound_at timestamptz,
    email_bound_at timestamptz,
    version integer not null default 1,
    home_store_no integer,
    state smallint not null default 1, -- 1 normal, 2 frozen, 3 cancelled
    kind smallint not null default 1, -- 1 ordinary, 2 virtual, 3 operations
    gender smallint not null default 0, -- 0 unknown, 1 male, 2 female, 3 other
    source smallint not null default 0, -- 0 unknown, 1 store, 2 web, 3 app, 4 import
    level smallint not null default 0,
    muted boolean not null default false,
    phone bytea, -- encrypted E.164
    email bytea, -- encrypted
    name bytea, -- encrypted
    birthday bytea, -- encrypted ISO date
    nickname text,
    signature text,
    attributes jsonb,
    constraint member_pk primary key (member_id),
    constraint member_state_known check (state between 1 and 3),
    constraint member_kind_known check (kind between 1 and 3)
) partition by hash (member_id);
