-- verify::member_key::mend
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
select m.member_id
from {member} m
where m.member_id = any($1::bigint[])
for update of m
