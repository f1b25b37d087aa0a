-- secret::rotate::pieces::count
-- touches: none
-- Of a piece only the part that begins it is read.
select
    get_byte(substr(c.sealed, 1, 1), 0) as "key!",
    count(*) as "pieces!"
from job_chunk c
group by 1
