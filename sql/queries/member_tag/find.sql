-- member::family::rows
-- touches: member_tag=1
-- route: member_tag=$1
-- given: insert into member_tag (member_id, tagged_at, tag, tagged_by)
--   select max(member_id), now(), 'sample', 'prove' from member having count(*) > 0
-- sample: select array[member_id] from member_tag limit 1
select
    t.member_id,
    t.tagged_at,
    t.tag,
    t.tagged_by
from {member_tag} t
where t.member_id = any($1::bigint[])
order by t.member_id, t.tag
