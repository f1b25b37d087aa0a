-- job::store::purge
-- touches: none
delete from job_failure f
using (
    select o.job_id, o.ordinal
    from job_failure o
    join job j on j.job_id = o.job_id
    where j.state in (7, 8, 9) and j.finished_at < $1
    limit $2
) old
where f.job_id = old.job_id and f.ordinal = old.ordinal
