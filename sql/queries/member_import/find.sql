-- member::import::write::find_members
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
-- What a row of a file is compared with.
select
    m.member_id,
    m.created_at,
    m.home_store_no,
    m.state,
    m.gender,
    m.level,
    m.name,
    m.birthday,
    m.nickname,
    m.attributes::text as attributes
from {member} m
where m.member_id = any($1::bigint[])
