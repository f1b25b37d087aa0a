-- job::store::lock_for_slice
-- touches: none
select j.rows_failed
from job j
where j.job_id = $1 and j.lease_holder = $2 and j.state = 4 and j.bytes_done = $3
for update of j
