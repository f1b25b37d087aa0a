-- chain::store::update_store
-- touches: none
update store
set name = coalesce($3, name),
    time_zone = case when $4 then $5 else time_zone end,
    state = coalesce($6, state),
    version = version + 1,
    updated_at = $7
where store_id = $1
    and ($2::bigint[] is null or version = any($2))
returning
    store_no as "store_no: StoreNo",
    store_id,
    name,
    time_zone,
    state,
    version,
    created_at,
    updated_at
