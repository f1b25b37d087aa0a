-- job::store::update_undone
-- touches: none
-- One that failed could be resumed: one that is taken back cannot.
update job
set
    options = options || jsonb_build_object('undone_by', $2::text),
    state = case when state = 9 then 7 else state end,
    updated_at = $3,
    version = version + 1
where job_id = $1
