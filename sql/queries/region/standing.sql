-- chain::region_store::list_standings
-- touches: none
select r.region_id, r.state
from region r
where r.region_id = any($1)
