-- member::role::store::insert_role
-- touches: member_role=1
-- route: member_role=$1
-- given: insert into member_role (member_id, granted_at, system, role, granted_by)
--   select max(member_id), now(), 'sample', 'sample', 'prove' from member having count(*) > 0
-- sample: select
--   array[member_id], array[granted_at], array[system], array[role || '-2'], array[granted_by]
--   from member_role limit 1
insert into {member_role} (
    member_id, granted_at, system, role, granted_by
)
select
    t.member_id, t.granted_at, t.system, t.role, t.granted_by
from unnest(
    $1::bigint[], $2::timestamptz[], $3::text[], $4::text[], $5::text[]
) with ordinality as t (
    member_id, granted_at, system, role, granted_by, position
)
order by t.position
