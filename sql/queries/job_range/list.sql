-- job::range::list
-- touches: none
-- From the one that holds the coupon at $2 on.
select
    r.position,
    r.first_no,
    r.coupons,
    r.day
from job_range r
where r.job_id = $1
    and r.position >= coalesce((
        select max(b.position) from job_range b where b.job_id = $1 and b.position <= $2
    ), 0)
order by r.position
limit $3
