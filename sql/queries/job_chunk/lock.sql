-- secret::rotate::pieces::rewrite_one
-- touches: none
-- The job first, as whoever writes or deletes its pieces locks it.
select c.sealed
from job j
join job_chunk c on c.job_id = j.job_id
where j.job_id = $1 and c.no = $2
for update of j, c
