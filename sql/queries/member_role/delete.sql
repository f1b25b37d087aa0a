-- member::role::store::delete_role
-- touches: member_role=1
-- route: member_role=$1
-- given: insert into member_role (member_id, granted_at, system, role, granted_by)
--   select max(member_id), now(), 'sample', 'sample', 'prove' from member having count(*) > 0
-- sample: select array[member_id], array[system], array[role] from member_role limit 1
delete from {member_role} r
using (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::text[]) as system,
        unnest($3::text[]) as role
) as t
where r.member_id = t.member_id
    and r.member_id = any($1::bigint[])
    and r.system = t.system
    and r.role = t.role
