-- job::store::anybody_waits
-- touches: none
select exists (
    select 1
    from job j
    where j.state = 4 and (j.lease_until is null or j.lease_until < clock_timestamp())
) as "waits!"
