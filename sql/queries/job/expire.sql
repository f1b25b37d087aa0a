-- job::store::purge
-- touches: none
update job
set
    state = 9,
    error = 'file_expired',
    finished_at = $2,
    updated_at = $2,
    version = version + 1
where state = any($3) and created_at < $1
