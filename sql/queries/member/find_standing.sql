-- coupon::validate::FindStanding
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
select
    m.member_id,
    m.state,
    m.kind,
    m.muted
from {member} m
where m.member_id = any($1::bigint[])
