-- member::store::FindMember
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
select
    m.member_id,
    m.created_at,
    m.updated_at,
    m.phone_bound_at,
    m.email_bound_at,
    m.erased_at,
    m.version,
    m.home_store_no,
    m.state,
    m.kind,
    m.gender,
    m.source,
    m.level,
    m.muted,
    m.phone,
    m.email,
    m.name,
    m.birthday,
    m.nickname,
    m.signature,
    m.attributes::text as attributes,
    m.avatar::text as avatar
from {member} m
where m.member_id = any($1::bigint[])
