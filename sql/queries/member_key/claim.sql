-- member::store::claim_keys
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[gen_random_uuid()], array[1::bigint], array[now()], array[1::smallint], array[1::smallint]
-- Waits for one under way that has the same key.
insert into {member_key} (key, member_id, bound_at, key_version, kind)
select t.key, t.member_id, t.bound_at, t.key_version, t.kind
from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::smallint[], $5::smallint[])
    with ordinality as t (key, member_id, bound_at, key_version, kind, position)
order by t.position
on conflict (key) do nothing
returning key
