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
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as granted_at,
        unnest($3::text[]) as system,
        unnest($4::text[]) as role,
        unnest($5::text[]) as granted_by,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
