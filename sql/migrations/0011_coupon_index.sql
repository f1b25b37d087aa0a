-- A rule's coupons: index of coupon by rule.
create table coupon_index (
    rule_id bigint not null,
    code_id bigint not null,
    valid_until timestamptz not null,
    member_id bigint,
    state smallint not null,
    referrer text,
    constraint coupon_index_pk primary key (rule_id, code_id)
) partition by hash (rule_id);
