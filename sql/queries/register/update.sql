-- chain::register::put_register
-- touches: none
-- The same again changes nothing.
update register
set name = $4,
    state = $5,
    version = version + 1,
    updated_at = $1
where store_no = $2
    and register = $3
    and (name, state) is distinct from ($4::text, $5::smallint)
