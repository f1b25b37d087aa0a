-- chain::register::put_register
-- touches: none
-- The bound is a rough one: what it keeps small is memory, and nobody makes a thousand registers at once.
insert into register (created_at, updated_at, store_no, register, name, state)
select $1, $1, $2, $3, $4, $5
where (select count(*) from register g where g.store_no = $2) < $6
on conflict do nothing
