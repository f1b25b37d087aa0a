-- chain::names::StoreNames::read
-- touches: none
select
    s.store_no as "store_no: StoreNo",
    s.store_id
from store s
where s.store_no = any($1)
