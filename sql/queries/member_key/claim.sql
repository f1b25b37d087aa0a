-- member::store::claim_keys
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[gen_random_uuid()], array[1::bigint], array[now()], array[1::smallint], array[1::smallint]
-- Waits for one under way that has the same key.
insert into {member_key} (key, member_id, bound_at, key_version, kind)
select t.key, t.member_id, t.bound_at, t.key_version, t.kind
from (
    select
        unnest($1::uuid[]) as key,
        unnest($2::bigint[]) as member_id,
        unnest($3::timestamptz[]) as bound_at,
        unnest($4::smallint[]) as key_version,
        unnest($5::smallint[]) as kind,
        generate_subscripts($1::uuid[], 1) as position
) as t
order by t.position
on conflict (key) do nothing
returning key
