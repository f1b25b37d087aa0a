-- member::tag::store::insert_tags
-- touches: member_tag=1
-- route: member_tag=$1
-- given: insert into member_tag (member_id, tagged_at, tag, tagged_by)
--   select max(member_id), now(), 'sample', 'prove' from member having count(*) > 0
-- sample: select
--   array[member_id], array[tagged_at], array[tag || ' 2'], array[tagged_by]
--   from member_tag limit 1
insert into {member_tag} (
    member_id, tagged_at, tag, tagged_by
)
select
    t.member_id, t.tagged_at, t.tag, t.tagged_by
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as tagged_at,
        unnest($3::text[]) as tag,
        unnest($4::text[]) as tagged_by,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
