-- job::store::lease_job
-- touches: none
-- One that a slice under way has locked is passed over, whatever its lease says.
update job j
set
    lease_holder = $1,
    lease_until = clock_timestamp() + $2::interval,
    turn_at = $3,
    attempts = attempts + 1
where j.job_id = (
    select w.job_id
    from job w
    where w.state = 4 and (w.lease_until is null or w.lease_until < clock_timestamp())
    order by w.turn_at nulls first, w.bytes, w.job_id
    limit 1
    for update skip locked
)
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
