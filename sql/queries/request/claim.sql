-- request::store::claim
-- touches: request=1
-- route: request=$4
-- sample: select array[now()], array[1::bigint], array[gen_random_uuid()], array[current_date]
insert into {request} (created_at, digest, key, day)
select t.created_at, t.digest, t.key, t.day
from (
    select
        unnest($1::timestamptz[]) as created_at,
        unnest($2::bigint[]) as digest,
        unnest($3::uuid[]) as key,
        unnest($4::date[]) as day,
        generate_subscripts($1::timestamptz[], 1) as position
) as t
order by t.position
on conflict (day, key) do nothing
returning day, key
