-- chain::region_store::list_ancestors
-- touches: none
with recursive up as (
    select r.region_id, r.parent_id
    from region r
    where r.region_id = $1
    union
    select r.region_id, r.parent_id
    from up
    join region r on r.region_id = up.parent_id
)
select up.region_id as "region_id!"
from up
order by up.region_id
