-- job::store::purge
-- touches: none
-- A job over a count has no file that could grow old.
update job
set
    state = 9,
    error = 'file_expired',
    finished_at = $2,
    updated_at = $2,
    version = version + 1
where state = any($3)
    and created_at < $1
    and exists (select from job_chunk c where c.job_id = job.job_id)
