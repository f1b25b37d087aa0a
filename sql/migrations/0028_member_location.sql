-- Where a member lives or was last, as coarse as it was told.
create table member_location (
    member_id bigint not null,
    updated_at timestamptz not null,
    latitude double precision,
    longitude double precision,
    nation text,
    province text,
    city text,
    district text,
    constraint member_location_pk primary key (member_id),
    constraint member_location_member_fk foreign key (member_id) references member (member_id),
    constraint member_location_place check ((latitude is null) = (longitude is null)),
    constraint member_location_latitude_range check (latitude between -90 and 90),
    constraint member_location_longitude_range check (longitude between -180 and 180)
) partition by hash (member_id);
