-- member::store::FindMember
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
select
    m.member_id,
    m.created_at,
    m.updated_at,
    m.version,
    m.home_store_no,
    m.state,
    m.kind,
    m.gender,
    m.source,
    m.phone,
    m.email,
    m.name,
    m.birthday,
    m.nickname,
    m.signature
from {member} m
where m.member_id = any($1::bigint[])
