-- Long work that is done in slices: imports, issue jobs. The row is the job's checkpoint: what a slice has done and how
-- far it came are written in one transaction.
create table job (
    job_id bigint not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    turn_at timestamptz, -- when a node last took it up: those that waited longest come first
    lease_until timestamptz, -- by the database's clock; a lapsed lease may be taken over
    lease_holder uuid,
    digest uuid, -- of the file, keyed
    bytes bigint not null default 0, -- of the file
    bytes_done bigint not null default 0, -- the checkpoint: where the next slice begins
    lines_done bigint not null default 0,
    rows_ok bigint not null default 0,
    rows_skipped bigint not null default 0,
    rows_failed bigint not null default 0,
    version integer not null default 1,
    kind smallint not null, -- job::Kind
    state smallint not null, -- job::State
    attempts smallint not null default 0, -- times it was taken up since its last slice that went through
    created_by text not null, -- scope of the caller
    number text, -- the caller's request number: <day>:<key>
    file_name text,
    error text, -- why it failed
    options jsonb not null,
    preview jsonb,
    constraint job_pk primary key (job_id),
    constraint job_number_unique unique (created_by, kind, number),
    constraint job_state_known check (state between 1 and 9),
    constraint job_done_range check (bytes_done >= 0 and bytes_done <= bytes)
);
-- The jobs that nodes look for, few among many that have ended.
create index job_running on job (turn_at nulls first, bytes, job_id) where state = 4;
