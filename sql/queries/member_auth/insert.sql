-- member::store::insert_auths
-- touches: member_auth=1
-- route: member_auth=$1
-- sample: select array[member_id], array[now()], array[gen_random_uuid()], array[1::smallint], array[3::smallint],
--   array[0::smallint], array[''::bytea], array[null::timestamptz] from member limit 1
insert into {member_auth} (member_id, bound_at, key, key_version, kind, source, identifier, verified_at)
select t.member_id, t.bound_at, t.key, t.key_version, t.kind, t.source, t.identifier, t.verified_at
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::timestamptz[]) as bound_at,
        unnest($3::uuid[]) as key,
        unnest($4::smallint[]) as key_version,
        unnest($5::smallint[]) as kind,
        unnest($6::smallint[]) as source,
        unnest($7::bytea[]) as identifier,
        unnest($8::timestamptz[]) as verified_at,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
