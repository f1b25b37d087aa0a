-- chain::store_import::put
-- touches: none
-- Sorted, as every import has them: two of them wait for each other and do not deadlock.
insert into store (
    created_at,
    updated_at,
    store_id,
    name,
    time_zone,
    state,
    region_id,
    city,
    address,
    phone,
    opened_on,
    closed_on,
    registers
)
select
    $1,
    $1,
    t.store_id,
    t.name,
    t.time_zone,
    coalesce(t.state, 1),
    t.region_id,
    t.city,
    t.address,
    t.phone,
    t.opened_on,
    case when t.state = 2 then $2::date end,
    coalesce(t.registers, 1)
from unnest(
    $3::text[],
    $4::text[],
    $5::text[],
    $6::smallint[],
    $7::text[],
    $8::text[],
    $9::text[],
    $10::text[],
    $11::date[],
    $12::smallint[]
) as t (store_id, name, time_zone, state, region_id, city, address, phone, opened_on, registers)
where not exists (select from store s where s.store_id = t.store_id)
order by t.store_id
on conflict do nothing
returning store_id
