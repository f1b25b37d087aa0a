-- member::erase::store::delete_family
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
--   on conflict do nothing
-- sample: select array[max(member_id)] from member_address having count(*) > 0
-- The member's row is locked.
delete from {member_address} x
where x.member_id = any($1::bigint[])
