-- job::store::update_progress
-- touches: none
update job
set
    bytes_done = $2,
    lines_done = $3,
    rows_ok = rows_ok + $4,
    rows_skipped = rows_skipped + $5,
    rows_failed = rows_failed + $6,
    state = case when $7::boolean then 8 else state end,
    finished_at = case when $7::boolean then $9::timestamptz end,
    lease_until = clock_timestamp() + $8::interval,
    updated_at = $9::timestamptz,
    attempts = 0,
    version = version + 1
where job_id = $1
returning rows_ok
