-- job::store::list_jobs_of_rule
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
where j.options ->> 'rule_id' = $5::text
    and j.kind = any($1)
    and ($2::smallint is null or j.state = $2)
    and ($3::bigint is null or j.job_id < $3)
order by j.job_id desc
limit $4
