-- job::store::fail_job
-- touches: none
-- Only by who holds it: the lease of another may have lapsed, and the job be in better hands.
update job
set
    state = 9,
    error = $2,
    finished_at = $3,
    updated_at = $3,
    lease_holder = null,
    lease_until = null,
    version = version + 1
where job_id = $1 and state = 4 and lease_holder = $4
