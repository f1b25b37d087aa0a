-- job::store::list_failures
-- touches: none
select
    f.ordinal,
    f.line,
    f.column_name as "column",
    f.code,
    f.detail
from job_failure f
where f.job_id = $1 and f.ordinal > $2
order by f.ordinal
limit $3
