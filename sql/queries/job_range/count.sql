-- job::range::count
-- touches: none
select coalesce(max(r.position + r.coupons), 0) as "coupons!"
from job_range r
where r.job_id = $1
