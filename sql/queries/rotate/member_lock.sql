-- secret::rotate::pii
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
-- As weak a lock as an update takes: rows that refer to a member may be written meanwhile.
select
    m.member_id,
    '',
    array[m.phone, m.email, m.name, m.birthday]
from unnest($1::bigint[]) with ordinality as t (member_id, position)
join {member} m on m.member_id = t.member_id
where m.member_id = any($1::bigint[])
order by t.position
for no key update of m
