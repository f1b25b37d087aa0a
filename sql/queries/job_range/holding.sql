-- job::range::holding
-- touches: none
-- Which of these numbers are the job's.
select t.no as "no!"
from unnest($2::bigint[]) as t (no)
where exists (
    select from job_range r where r.job_id = $1 and t.no >= r.first_no and t.no < r.first_no + r.coupons
)
