-- chain::register::list_registers
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
    and ($2::text is null or g.register > $2)
order by g.register
limit $3
