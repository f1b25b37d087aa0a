-- job::store::update_uploaded
-- touches: none
update job j
set
    state = $2,
    digest = $3,
    number = $4,
    options = $5::text::jsonb,
    preview = $6::text::jsonb,
    updated_at = $7::timestamptz,
    started_at = case when $2 = 4::smallint then $7::timestamptz end,
    version = version + 1
where j.job_id = $1 and j.state = 1
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
