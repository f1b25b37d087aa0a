-- secret::rotate::pii
-- touches: member=all (a walk names one leaf at a time)
-- sample: select member_id - 1, 1::bigint from member limit 1
select
    m.member_id,
    array_remove(array[
        get_byte(m.phone, 0),
        get_byte(m.email, 0),
        get_byte(m.name, 0),
        get_byte(m.birthday, 0)
    ], null)
from {member} m
where m.member_id > $1
order by m.member_id
fetch first $2 rows with ties
