-- job::store::fail_job
-- touches: none
update job
set
    state = 9,
    error = $2,
    finished_at = $3,
    updated_at = $3,
    version = version + 1
where job_id = $1 and state = 4
