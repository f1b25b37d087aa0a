-- Callers of the HTTP API. Only the SHA-256 of the secret part is kept.
create table api_key (
    created_at timestamptz not null,
    revoked_at timestamptz,
    store_no integer,
    role smallint not null, -- 1 pos, 2 marketing, 3 ops, 4 admin
    key_id text not null,
    name text not null,
    secret_sha256 bytea not null,
    constraint api_key_pk primary key (key_id),
    constraint api_key_name_unique unique (name),
    constraint api_key_store_fk foreign key (store_no) references store (store_no),
    constraint api_key_role_known check (role between 1 and 4),
    constraint api_key_pos_has_store check ((role = 1) = (store_no is not null))
);
