-- secret::rotate::pieces::rewrite_one
-- touches: none
update job_chunk
set sealed = $3
where job_id = $1 and no = $2
