-- chain::region_store::list_regions
-- touches: none
select
    r.region_id,
    r.parent_id,
    r.name,
    r.state,
    r.version,
    r.created_at,
    r.updated_at
from region r
where ($1::text is null or r.region_id > $1)
    and ($2::smallint is null or r.state = $2)
    and ($3::text is null or r.parent_id = $3)
order by r.region_id
limit $4
