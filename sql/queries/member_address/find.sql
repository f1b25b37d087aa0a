-- member::family::rows
-- touches: member_address=1
-- route: member_address=$1
-- given: insert into member_address (member_id, address_id, created_at, updated_at, receiver, detail)
--   select max(member_id), 1, now(), now(), '\x00', '\x00' from member having count(*) > 0
-- sample: select array[member_id] from member_address limit 1
select
    a.member_id,
    a.address_id,
    a.created_at,
    a.updated_at,
    a.version,
    a.is_default,
    a.receiver,
    a.phone,
    a.detail,
    a.coordinates,
    a.province,
    a.city,
    a.district,
    a.postcode,
    a.label
from {member_address} a
where a.member_id = any($1::bigint[])
order by a.member_id, a.is_default desc, a.address_id
