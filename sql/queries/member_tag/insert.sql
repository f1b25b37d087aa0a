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
from unnest(
    $1::bigint[], $2::timestamptz[], $3::text[], $4::text[]
) with ordinality as t (
    member_id, tagged_at, tag, tagged_by, position
)
order by t.position
