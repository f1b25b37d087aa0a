-- request::store::claim
-- touches: request=1
-- route: request=$4
-- sample: select array[now()], array[1::bigint], array[gen_random_uuid()], array[current_date]
insert into {request} (created_at, digest, key, day)
select t.created_at, t.digest, t.key, t.day
from unnest($1::timestamptz[], $2::bigint[], $3::uuid[], $4::date[])
    with ordinality as t (created_at, digest, key, day, position)
order by t.position
on conflict (day, key) do nothing
returning day, key
