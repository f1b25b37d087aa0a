-- Code of an older system to code_id; `legacy_key` is the keyed hash of the old code.
create table coupon_history_index (
    code_id bigint not null,
    legacy_key uuid not null,
    constraint coupon_history_index_pk primary key (legacy_key)
) partition by hash (legacy_key);
