-- What a member has taken of a rule. taken = living rows in coupon_receive of that rule + retired.
create table member_rule (
    member_id bigint not null,
    rule_id bigint not null,
    last_taken_at timestamptz,
    taken integer not null default 0,
    retired integer not null default 0,
    constraint member_rule_pk primary key (member_id, rule_id),
    constraint member_rule_counts check (taken >= 0 and retired >= 0)
) partition by hash (member_id);
