-- chain::store_import::put
-- touches: none
-- $13 names the columns that the file has. What a row does not change is not written.
update store
set name = t.name,
    time_zone = t.time_zone,
    state = t.state,
    region_id = t.region_id,
    city = t.city,
    address = t.address,
    phone = t.phone,
    opened_on = t.opened_on,
    closed_on = case when t.state <> 2 then null else coalesce(store.closed_on, $2::date) end,
    registers = t.registers,
    version = version + 1,
    updated_at = $1
from (
    select
        s.store_no,
        t.name,
        case when 'time_zone' = any($13::text[]) then t.time_zone else s.time_zone end as time_zone,
        coalesce(t.state, s.state) as state,
        case when 'region_id' = any($13) then t.region_id else s.region_id end as region_id,
        case when 'city' = any($13) then t.city else s.city end as city,
        case when 'address' = any($13) then t.address else s.address end as address,
        case when 'phone' = any($13) then t.phone else s.phone end as phone,
        case when 'opened_on' = any($13) then t.opened_on else s.opened_on end as opened_on,
        coalesce(t.registers, s.registers) as registers
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
    join store s on s.store_id = t.store_id
) t
where store.store_no = t.store_no
    and (
        store.name,
        store.time_zone,
        store.state,
        store.region_id,
        store.city,
        store.address,
        store.phone,
        store.opened_on,
        store.registers
    ) is distinct from (
        t.name,
        t.time_zone,
        t.state,
        t.region_id,
        t.city,
        t.address,
        t.phone,
        t.opened_on,
        t.registers
    )
