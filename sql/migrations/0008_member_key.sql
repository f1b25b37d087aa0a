-- Identifier to member: the index of members and the referee of uniqueness.
create table member_key (
    member_id bigint not null,
    bound_at timestamptz not null,
    key uuid not null, -- blind index: HMAC of kind and normalised identifier
    key_version smallint not null,
    kind smallint not null, -- member::key::Kind
    constraint member_key_pk primary key (key)
) partition by hash (key);
