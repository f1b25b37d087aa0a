-- Identifiers of a member besides phone and e-mail: username, card, external systems, social logins.
-- `key` is the blind index of the identifier under `key_version`, as in member_key.
create table member_auth (
    member_id bigint not null,
    bound_at timestamptz not null,
    key uuid not null,
    key_version smallint not null,
    kind smallint not null, -- member::key::Kind
    source smallint not null default 0,
    identifier bytea not null, -- encrypted
    constraint member_auth_pk primary key (member_id, key),
    constraint member_auth_member_fk foreign key (member_id) references member (member_id)
) partition by hash (member_id);
