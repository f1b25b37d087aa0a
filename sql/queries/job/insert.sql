-- job::store::insert_job
-- touches: none
insert into job (job_id, created_at, updated_at, kind, state, created_by, file_name, options)
select
    $1::bigint,
    $2::timestamptz,
    $2::timestamptz,
    $3::smallint,
    $4::smallint,
    $5::text,
    $6::text,
    $7::text::jsonb
where (select count(*) from job o where o.created_by = $5::text and o.state in (1, 3, 4, 5)) < $8::bigint
