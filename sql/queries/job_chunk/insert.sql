-- job::store::insert_chunk
-- touches: none
insert into job_chunk (job_id, no, sealed)
values ($1, $2, $3)
