-- job::store::find_chunk
-- touches: none
select c.sealed
from job_chunk c
where c.job_id = $1 and c.no = $2
