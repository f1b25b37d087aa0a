-- job::store::pause_job
-- touches: none
-- Only by who holds it, as with failing.
update job
set
    state = 5,
    error = $2,
    updated_at = $3,
    lease_holder = null,
    lease_until = null,
    version = version + 1
where job_id = $1 and state = 4 and lease_holder = $4
