-- chain::system_store::update_system
-- touches: none
update external_system
set name = coalesce($3, name),
    state = coalesce($4, state),
    version = version + 1,
    updated_at = $5
where system = $1
    and ($2::bigint[] is null or version = any($2))
returning
    system,
    name,
    id_shape,
    state,
    version,
    created_at,
    updated_at
