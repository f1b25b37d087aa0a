-- verify::member_key::MEMBER
-- touches: member=all (a walk names one leaf at a time)
-- sample: select member_id - 1, 1::bigint from member limit 1
select
    m.member_id,
    m.phone_bound_at,
    m.email_bound_at,
    m.phone,
    m.email
from {member} m
where $1::bigint is null or m.member_id > $1
order by m.member_id
limit $2::bigint
