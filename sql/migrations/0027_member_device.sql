-- The devices of a member, the last seen first to go when there are too many.
create table member_device (
    member_id bigint not null,
    device_no bigint not null, -- minted; a device's own ids are personal data
    created_at timestamptz not null,
    seen_at timestamptz not null,
    vendor text,
    client text,
    os text,
    app_version text,
    market text,
    device_id bytea not null, -- encrypted
    push_token bytea, -- encrypted
    constraint member_device_pk primary key (member_id, device_no),
    constraint member_device_member_fk foreign key (member_id) references member (member_id)
) partition by hash (member_id);
