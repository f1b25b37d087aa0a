-- The file of a job, encrypted, in pieces of equal size but for the last. In the database any node can go on with the
-- job, and a backup has it. Kept 7 days.
create table job_chunk (
    job_id bigint not null,
    no integer not null,
    sealed bytea not null,
    constraint job_chunk_pk primary key (job_id, no),
    constraint job_chunk_job_fk foreign key (job_id) references job (job_id) on delete cascade
);
-- What is encrypted does not compress.
alter table job_chunk alter column sealed set storage external;
