-- job::store::release_job
-- touches: none
update job
set
    lease_holder = null,
    lease_until = clock_timestamp() + $3::interval
where job_id = $1 and lease_holder = $2
