-- chain::system_store::list_systems
-- touches: none
select
    x.system,
    x.name,
    x.id_shape,
    x.state,
    x.version,
    x.created_at,
    x.updated_at
from external_system x
where ($1::text is null or x.system > $1)
order by x.system
limit $2
