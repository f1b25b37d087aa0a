-- member::reveal::identifiers
-- touches: member_auth=1
-- route: member_auth=$1
-- sample: select array[member_id] from member_auth limit 1
select
    a.kind,
    a.identifier
from {member_auth} a
where a.member_id = any($1::bigint[])
order by a.kind, a.bound_at, a.key
