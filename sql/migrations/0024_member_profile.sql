-- Profiles of business lines, one table a line, beside an untouched core. A missing row is a line never used.
create table member_profile_mall (
    member_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version integer not null default 1,
    credit_score integer not null default 100,
    user_type smallint not null default 1, -- 1 consumer, 2 merchant, 3 courier
    state smallint not null default 1, -- 1 active, 2 suspended
    mall_role smallint not null default 1, -- 1 consumer, 2 clerk, 3 manager
    real_name bytea, -- encrypted; merchants and couriers must have it
    id_card bytea, -- encrypted; merchants and couriers must have it
    constraint member_profile_mall_pk primary key (member_id),
    constraint member_profile_mall_member_fk foreign key (member_id) references member (member_id),
    constraint member_profile_mall_user_type_known check (user_type between 1 and 3),
    constraint member_profile_mall_state_known check (state between 1 and 2),
    constraint member_profile_mall_role_known check (mall_role between 1 and 3),
    constraint member_profile_mall_credit_range check (credit_score between 0 and 1000)
) partition by hash (member_id);

create table member_profile_sport (
    member_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    version integer not null default 1,
    weight_g integer,
    height_mm smallint,
    sport_role smallint not null default 1, -- 1 athlete, 2 coach, 3 guardian
    bio text,
    region text,
    school text,
    grade text,
    class text,
    constraint member_profile_sport_pk primary key (member_id),
    constraint member_profile_sport_member_fk foreign key (member_id) references member (member_id),
    constraint member_profile_sport_role_known check (sport_role between 1 and 3),
    constraint member_profile_sport_height_range check (height_mm between 300 and 3000),
    constraint member_profile_sport_weight_range check (weight_g between 500 and 500000)
) partition by hash (member_id);
