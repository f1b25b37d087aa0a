-- chain::register::put_register
-- touches: none
select
    g.register,
    g.name,
    g.state,
    g.version,
    g.created_at,
    g.updated_at
from register g
where g.store_no = $1
    and g.register = $2
