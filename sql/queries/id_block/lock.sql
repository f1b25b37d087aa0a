-- db::migrate::restored
-- touches: none
select b.name, b.next
from id_block b
order by b.name
for update
