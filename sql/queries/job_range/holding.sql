-- job::range::holding
-- touches: none
-- Which of these numbers are the job's: its runs do not overlap, so of each number only the run that begins last before it
-- is looked at.
select t.no as "no!"
from unnest($2::bigint[]) as t (no)
cross join lateral (
    select
        r.first_no,
        r.coupons
    from job_range r
    where r.job_id = $1
        and r.first_no <= t.no
    order by r.first_no desc
    limit 1
) as run
where t.no < run.first_no + run.coupons
