-- job::store::get_job_for_update
-- touches: none
select j.job_id
from job j
where j.job_id = $1
for update of j
