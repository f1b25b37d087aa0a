-- job::store::grow_uploading
-- touches: none
-- A piece comes in only while its job is being uploaded.
update job
set
    bytes = bytes + $2,
    updated_at = $3,
    version = version + 1
where job_id = $1 and state = 1
