-- verify::member_key::KEY
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key] from member_key limit 1
select
    k.key,
    k.member_id,
    k.bound_at,
    k.key_version,
    k.kind
from {member_key} k
where k.key = any($1::uuid[])
