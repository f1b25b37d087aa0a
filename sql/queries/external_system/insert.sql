-- chain::system_store::insert_system
-- touches: none
insert into external_system (created_at, updated_at, system, name, id_shape)
select $1, $1, $2, $3, $4
where (select count(*) from external_system) < $5
on conflict do nothing
returning
    system,
    name,
    id_shape,
    state,
    version,
    created_at,
    updated_at
