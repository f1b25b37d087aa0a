-- verify::member_key::mend
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key] from member_key limit 1
select
    k.key,
    k.member_id
from {member_key} k
where k.key = any($1::uuid[])
order by k.key
for update of k
