-- Which coupons a job made: runs of the counter that codes are made of, written with them. A code is computed from its day
-- and its number, so no coupon carries the job that made it.
create table job_range (
    job_id bigint not null,
    position bigint not null, -- coupons of the job before these
    first_no bigint not null, -- of the counter
    coupons integer not null, -- so many numbers from there on
    day integer, -- their issue day since 2000-01-01; null where each has its own
    constraint job_range_pk primary key (job_id, position),
    constraint job_range_job_fk foreign key (job_id) references job (job_id) on delete cascade,
    constraint job_range_coupons_range check (coupons > 0)
);
