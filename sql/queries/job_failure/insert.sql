-- job::store::update_progress
-- touches: none
insert into job_failure (job_id, ordinal, line, column_name, code, detail)
select $1::bigint, t.ordinal, t.line, t.column_name, t.code, t.detail
from unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[])
    as t (ordinal, line, column_name, code, detail)
