-- chain::store::list_stores
-- touches: none
select
    s.store_no as "store_no: StoreNo",
    s.store_id,
    s.name,
    s.time_zone,
    s.state,
    s.version,
    s.created_at,
    s.updated_at
from store s
where ($1::text is null or s.store_id > $1)
    and ($2::smallint is null or s.state = $2)
order by s.store_id
limit $3
