-- Who drives what.
create table member_profile_fleet (
    member_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version integer not null default 1,
    rating smallint not null default 0,
    plate bytea, -- encrypted
    vehicle text,
    constraint member_profile_fleet_pk primary key (member_id)
) partition by hash (member_id);
