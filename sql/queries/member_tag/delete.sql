-- member::tag::store::delete_tags
-- touches: member_tag=1
-- route: member_tag=$1
-- given: insert into member_tag (member_id, tagged_at, tag, tagged_by)
--   select max(member_id), now(), 'sample', 'prove' from member having count(*) > 0
-- sample: select array[member_id], array[tag] from member_tag limit 1
delete from {member_tag} g
using (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::text[]) as tag
) as t
where g.member_id = t.member_id
    and g.member_id = any($1::bigint[])
    and g.tag = t.tag
