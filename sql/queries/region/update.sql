-- chain::region_store::update_regions
-- touches: none
update region
set parent_id = t.parent_id,
    name = t.name,
    state = t.state,
    version = version + 1,
    updated_at = $1
from unnest($2::text[], $3::text[], $4::text[], $5::smallint[]) as t (region_id, parent_id, name, state)
where region.region_id = t.region_id
