-- chain::store_import::put
-- touches: none
select s.store_id
from store s
where s.store_id = any($1)
order by s.store_id
for update
