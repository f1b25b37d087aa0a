-- member::address::store::delete_address
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
-- sample: select array[member_id], array[address_id] from member_address limit 1
delete from {member_address} a
using (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as address_id
) as t
where a.member_id = t.member_id
    and a.member_id = any($1::bigint[])
    and a.address_id = t.address_id
