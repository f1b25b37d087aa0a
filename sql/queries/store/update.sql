-- chain::store::update_store
-- touches: none
-- $1 id, $2 versions, $3 now, $4 today, then each field, before it whether it is set where null means something.
update store
set name = coalesce($5, name),
    time_zone = case when $6 then $7 else time_zone end,
    state = coalesce($8, state),
    closed_on = case
        when coalesce($8, state) <> 2 then null
        else coalesce(closed_on, $4)
    end,
    region_id = case when $9 then $10 else region_id end,
    city = case when $11 then $12 else city end,
    address = case when $13 then $14 else address end,
    phone = case when $15 then $16 else phone end,
    opened_on = case when $17 then $18 else opened_on end,
    registers = coalesce($19, registers),
    version = version + 1,
    updated_at = $3
where store_id = $1
    and ($2::bigint[] is null or version = any($2))
    and (
        $10::text is null
        or region_id = $10
        or exists (select from region r where r.region_id = $10 and r.state = 1)
    )
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
