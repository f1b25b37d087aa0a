-- member::binding::store::find_auths
-- touches: member_auth=1
-- route: member_auth=$1
-- sample: select array[member_id] from member_auth limit 1
select
    a.member_id,
    a.bound_at,
    a.verified_at,
    a.key,
    a.kind,
    a.source,
    a.identifier
from {member_auth} a
where a.member_id = any($1::bigint[])
order by a.member_id, a.bound_at, a.key
