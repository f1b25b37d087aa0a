-- member::import::Stores::read
-- touches: none
select
    s.store_id,
    s.store_no as "store_no: StoreNo"
from store s
