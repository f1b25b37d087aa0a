-- job::store::update_state
-- touches: none
-- $7: one that was given up is taken up again too.
-- Whoever works on the job finds at its next slice that it does not any more; who resumes it need not wait for a lease.
update job j
set
    state = $3,
    updated_at = $5::timestamptz,
    version = version + 1,
    started_at = case when $3 = 4::smallint then coalesce(started_at, $5::timestamptz) else started_at end,
    finished_at = case when $6::boolean then $5::timestamptz end,
    error = null,
    attempts = 0,
    lease_holder = null,
    lease_until = null
where j.job_id = $1
    and j.kind = $2
    and (j.state = any($4) or ($7::boolean and j.state = 9 and j.error = 'gave_up'))
returning
    j.job_id as "job_id: JobId",
    j.created_at,
    j.updated_at,
    j.started_at,
    j.finished_at,
    j.digest,
    j.bytes,
    j.bytes_done,
    j.lines_done,
    j.rows_ok,
    j.rows_skipped,
    j.rows_failed,
    j.version,
    j.kind,
    j.state,
    j.attempts,
    j.created_by,
    j.number,
    j.file_name,
    j.error,
    j.options::text as "options!",
    j.preview::text as "preview?"
