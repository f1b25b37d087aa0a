-- verify::member_key::mend
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key], array[member_id], array[bound_at], array[key_version], array[kind], array[member_id] from member_key limit 1
insert into {member_key} as k (key, member_id, bound_at, key_version, kind)
select t.key, t.member_id, t.bound_at, t.key_version, t.kind
from (
    select
        unnest($1::uuid[]) as key,
        unnest($2::bigint[]) as member_id,
        unnest($3::timestamptz[]) as bound_at,
        unnest($4::smallint[]) as key_version,
        unnest($5::smallint[]) as kind
) as t
on conflict (key) do update
set
    member_id = excluded.member_id,
    bound_at = excluded.bound_at,
    key_version = excluded.key_version,
    kind = excluded.kind
where k.member_id = any($6::bigint[])
