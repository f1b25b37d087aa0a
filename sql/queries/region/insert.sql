-- chain::region_store::insert_regions
-- touches: none
insert into region (created_at, updated_at, region_id, parent_id, name, state)
select $1, $1, t.region_id, t.parent_id, t.name, t.state
from unnest($2::text[], $3::text[], $4::text[], $5::smallint[]) as t (region_id, parent_id, name, state)
