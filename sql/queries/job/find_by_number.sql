-- job::store::find_by_number
-- touches: none
select
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
from job j
where j.created_by = $1 and j.kind = $2 and j.number = any($3)
order by j.job_id
limit 1
