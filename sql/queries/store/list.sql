-- chain::store::list_stores
-- touches: none
-- union, not union all: it ends whatever the rows say.
with recursive below as (
    select r.region_id
    from region r
    where r.region_id = $3
    union
    select r.region_id
    from region r
    join below b on r.parent_id = b.region_id
)
select
    s.store_no as "store_no: StoreNo",
    s.store_id,
    s.name,
    s.time_zone,
    s.state,
    s.region_id,
    s.city,
    s.address,
    s.phone,
    s.opened_on,
    s.closed_on,
    s.registers,
    s.version,
    s.created_at,
    s.updated_at
from store s
where ($1::text is null or s.store_id > $1)
    and ($2::smallint is null or s.state = $2)
    and ($3::text is null or s.region_id in (select b.region_id from below b))
    and ($4::text is null or starts_with(s.store_id, $4))
order by s.store_id
limit $5
