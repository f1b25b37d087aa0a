-- Whoever makes jobs. The row is the lock under which a caller's open jobs are counted and a new one is made: without it
-- two that count at once both see room for one. Never deleted; there are as many as callers.
create table job_caller (
    asked_at timestamptz not null, -- when a job was last asked for
    created_by text not null, -- as in job
    constraint job_caller_pk primary key (created_by)
);
