-- chain::store::find_store
-- touches: none
select
    s.store_no as "store_no: StoreNo",
    s.store_id,
    s.name,
    s.time_zone,
    s.state,
    s.region_id,
    s.city,
    s.address,
    s.phone,
    s.opened_on,
    s.closed_on,
    s.registers,
    s.version,
    s.created_at,
    s.updated_at
from store s
where s.store_id = $1
