-- What became of the coupons that jobs made: $1 jobs and $2 codes side by side, $3 now.
select t.job_id,
    count(*) filter (where c.state = 1 and c.valid_until > $3 and coalesce(c.lock_until <= $3, true)) as free,
    count(*) filter (where c.state = 1 and c.valid_until > $3 and c.lock_until > $3) as locked,
    count(*) filter (where c.state = 2) as used,
    count(*) filter (where c.state = 1 and c.valid_until <= $3) as expired,
    count(*) filter (where c.state = 3) as void
from unnest($1::bigint[], $2::bigint[]) as t (job_id, code_id)
join coupon c on c.code_id = t.code_id
group by t.job_id
