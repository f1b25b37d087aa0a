-- Labels that marketing and services put on members.
create table member_tag (
    member_id bigint not null,
    tagged_at timestamptz not null,
    tag text not null,
    tagged_by text not null, -- the caller's name
    constraint member_tag_pk primary key (member_id, tag),
    constraint member_tag_member_fk foreign key (member_id) references member (member_id)
) partition by hash (member_id);
