-- chain::store::insert_store
-- touches: none
insert into store (created_at, updated_at, store_id, name, time_zone)
values ($1, $1, $2, $3, $4)
on conflict do nothing
returning
    store_no as "store_no: StoreNo",
    store_id,
    name,
    time_zone,
    state,
    version,
    created_at,
    updated_at
