-- chain::register::list_active
-- touches: none
select g.register
from register g
where g.store_no = $1
    and g.state = 1
