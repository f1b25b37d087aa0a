-- member::store::free_standings
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
-- Shared locks: a member who is being frozen is frozen before or after the batch, not beside it.
select
    m.member_id,
    m.state,
    m.kind,
    m.muted
from (
    select
        unnest($1::bigint[]) as member_id,
        generate_subscripts($1::bigint[], 1) as position
    order by position
) as t
cross join lateral (
    select
        m.member_id,
        m.state,
        m.kind,
        m.muted
    from {member} m
    where m.member_id = t.member_id
    for share
    skip locked
) as m
