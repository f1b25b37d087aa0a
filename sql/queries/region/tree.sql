-- chain::region_store::get_tree
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
