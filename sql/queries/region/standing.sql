-- chain::region_store::list_standings
-- touches: none
-- Held as they stand until the stores are put: none is retired meanwhile.
select r.region_id, r.state
from region r
where r.region_id = any($1)
order by r.region_id
for share of r
