-- job::store::insert_chunk
-- touches: none
-- A piece comes in only while its job is being uploaded.
with uploading as (
    update job
    set
        bytes = bytes + $3,
        updated_at = $5,
        version = version + 1
    where job_id = $1 and state = 1
    returning job_id
)
insert into job_chunk (job_id, no, sealed)
select u.job_id, $2::integer, $4::bytea
from uploading u
