-- verify::member_key::MEMBER
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
select
    m.member_id,
    m.phone_bound_at,
    m.email_bound_at,
    m.phone,
    m.email
from {member} m
where m.member_id = any($1::bigint[])
