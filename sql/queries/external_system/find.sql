-- chain::system_store::find_system
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
where x.system = $1
