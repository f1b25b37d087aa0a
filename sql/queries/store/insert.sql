-- chain::store::insert_store
-- touches: none
-- No row comes back when the id is taken or the region takes no stores.
insert into store (
    created_at,
    updated_at,
    store_id,
    name,
    time_zone,
    region_id,
    city,
    address,
    phone,
    opened_on,
    registers
)
select $1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
where $5::text is null
    or exists (select from region r where r.region_id = $5 and r.state = 1)
on conflict do nothing
returning
    store_no as "store_no: StoreNo",
    store_id,
    name,
    time_zone,
    state,
    region_id,
    city,
    address,
    phone,
    opened_on,
    closed_on,
    registers,
    version,
    created_at,
    updated_at
