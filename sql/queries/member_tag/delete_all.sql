-- member::erase::store::delete_family
-- touches: member_tag=1
-- route: member_tag=$1
-- given: insert into member_tag (member_id, tagged_at, tag, tagged_by)
--   select max(member_id), now(), 'sample', 'sample' from member having count(*) > 0
--   on conflict do nothing
-- sample: select array[max(member_id)] from member_tag having count(*) > 0
-- The member's row is locked.
delete from {member_tag} x
where x.member_id = any($1::bigint[])
