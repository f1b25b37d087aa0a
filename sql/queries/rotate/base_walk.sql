-- secret::rotate::blind
-- touches: member=all (a walk names one leaf at a time)
-- sample: select member_id - 1, 1::bigint from member limit 1
select m.member_id
from {member} m
where m.member_id > $1
order by m.member_id
limit $2::bigint
