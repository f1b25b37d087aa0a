-- job::range::insert
-- touches: none
-- After those of the job so far, whose row is locked.
insert into job_range (job_id, position, first_no, coupons, day)
select
    $1::bigint,
    coalesce((
        select r.position + r.coupons
        from job_range r
        where r.job_id = $1::bigint
        order by r.position desc
        limit 1
    ), 0),
    $2::bigint,
    $3::integer,
    $4::integer
