-- Rows of a job's file that were refused, without what stood in them.
create table job_failure (
    job_id bigint not null,
    ordinal bigint not null, -- of the row in the file, from 1
    line bigint not null, -- on which the row begins
    column_name text,
    code text not null,
    detail text not null,
    constraint job_failure_pk primary key (job_id, ordinal),
    constraint job_failure_job_fk foreign key (job_id) references job (job_id) on delete cascade
);
