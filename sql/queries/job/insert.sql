-- job::store::insert_job
-- touches: none
insert into job (job_id, created_at, updated_at, kind, state, created_by, file_name, options)
values ($1, $2, $2, $3, $4, $5, $6, $7::text::jsonb)
