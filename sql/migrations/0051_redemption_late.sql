-- Items of offline uploads whose day no leaf of `request` holds, with what was answered: each goes to the conflicts once,
-- however often and late it is sent. There are few: a till that was cut off for more than a month.
create table redemption_late (
    recorded_at timestamptz not null,
    key uuid not null, -- coupon::offline: number and content of the item
    answer text,
    constraint redemption_late_pk primary key (key)
);
