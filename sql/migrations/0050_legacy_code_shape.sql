-- What codes of older systems look like: what has none of these shapes is no code of theirs. Shapes stay: codes were read
-- by them when they were imported.
create table legacy_code_shape (
    created_at timestamptz not null,
    length_min smallint not null,
    length_max smallint not null,
    name text not null,
    alphabet text not null, -- the characters, each once
    constraint legacy_code_shape_pk primary key (name),
    constraint legacy_code_shape_length_range check (length_min between 1 and length_max and length_max <= 64)
);
