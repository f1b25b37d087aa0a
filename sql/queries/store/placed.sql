-- chain::store_import::check_regions
-- touches: none
select
    s.store_id,
    s.region_id as "region_id!"
from store s
where s.store_id = any($1)
    and s.region_id is not null
