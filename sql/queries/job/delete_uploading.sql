-- job::store::delete_uploading
-- touches: none
delete from job
where job_id = $1 and state = 1
