-- Where things are sent. A member with addresses has exactly one default: at most one by the index below, at least one
-- by the writer, which locks the member's row first.
create table member_address (
    member_id bigint not null,
    address_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    latitude double precision,
    longitude double precision,
    version integer not null default 1,
    is_default boolean not null default false,
    receiver bytea not null, -- encrypted
    phone bytea, -- encrypted E.164
    detail bytea not null, -- encrypted
    province text,
    city text,
    district text,
    postcode text,
    label text,
    constraint member_address_pk primary key (member_id, address_id),
    constraint member_address_member_fk foreign key (member_id) references member (member_id),
    constraint member_address_place check ((latitude is null) = (longitude is null)),
    constraint member_address_latitude_range check (latitude between -90 and 90),
    constraint member_address_longitude_range check (longitude between -180 and 180)
) partition by hash (member_id);

-- The referee of the one default.
create unique index member_address_default on member_address (member_id) where is_default;
