-- job::store::purge
-- touches: none
delete from job_chunk c
using (
    select o.job_id, o.no
    from job_chunk o
    join job j on j.job_id = o.job_id
    where j.created_at < $1 or j.error = 'upload_broken'
    limit $2
) old
where c.job_id = old.job_id and c.no = old.no
