-- job::store::purge
-- touches: none
delete from job j
where j.state in (7, 8, 9)
    and j.finished_at < $1
    and not exists (select from job_chunk c where c.job_id = j.job_id)
    and not exists (select from job_failure f where f.job_id = j.job_id)
