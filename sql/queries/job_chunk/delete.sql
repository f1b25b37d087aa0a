-- job::store::delete_uploading
-- touches: none
delete from job_chunk c
using (
    select o.no
    from job_chunk o
    where o.job_id = $1
    limit $2
) old
where c.job_id = $1 and c.no = old.no
