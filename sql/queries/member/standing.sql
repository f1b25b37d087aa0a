-- member::store::standings
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
-- Shared locks: a member who is being frozen is frozen before or after the batch, not beside it.
select
    m.member_id,
    m.state,
    m.kind,
    m.muted
from unnest($1::bigint[]) with ordinality as t (member_id, position)
join {member} m on m.member_id = t.member_id
where m.member_id = any($1::bigint[])
order by t.position
for share of m
