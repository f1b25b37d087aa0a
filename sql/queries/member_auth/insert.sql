-- member::store::insert_auths
-- touches: member_auth=1
-- route: member_auth=$1
-- sample: select array[member_id], array[now()], array[gen_random_uuid()], array[1::smallint], array[3::smallint],
--   array[0::smallint], array[''::bytea], array[null::timestamptz] from member limit 1
insert into {member_auth} (member_id, bound_at, key, key_version, kind, source, identifier, verified_at)
select t.member_id, t.bound_at, t.key, t.key_version, t.kind, t.source, t.identifier, t.verified_at
from unnest(
    $1::bigint[], $2::timestamptz[], $3::uuid[], $4::smallint[], $5::smallint[], $6::smallint[], $7::bytea[],
    $8::timestamptz[]
) with ordinality as t (member_id, bound_at, key, key_version, kind, source, identifier, verified_at, position)
order by t.position
