-- A member's coupons: index of coupon by holder. State stands in no index, so that updates stay HOT.
create table coupon_receive (
    member_id bigint not null,
    code_id bigint not null,
    rule_id bigint not null,
    valid_until timestamptz not null,
    state smallint not null,
    constraint coupon_receive_pk primary key (member_id, code_id)
) partition by hash (member_id);
