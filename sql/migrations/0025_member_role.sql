-- What a member may do in a system, as that system names it.
create table member_role (
    member_id bigint not null,
    granted_at timestamptz not null,
    system text not null,
    role text not null,
    granted_by text not null, -- the caller's name
    constraint member_role_pk primary key (member_id, system, role),
    constraint member_role_member_fk foreign key (member_id) references member (member_id)
) partition by hash (member_id);
