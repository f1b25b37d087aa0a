-- secret::rotate::pieces::rewrite
-- touches: none
select
    c.job_id,
    c.no
from job_chunk c
where (c.job_id, c.no) > ($1, $2::integer)
    and get_byte(substr(c.sealed, 1, 1), 0) <> $3
order by c.job_id, c.no
limit $4
