-- request::store::insert_answers
-- touches: request=1
-- route: request=$4
-- sample: select array[now()], array[1::bigint], array[gen_random_uuid()], array[current_date], array[200::smallint], array['{}']
insert into {request} (created_at, digest, key, day, status, answer)
select t.created_at, t.digest, t.key, t.day, t.status, t.answer
from (
    select
        unnest($1::timestamptz[]) as created_at,
        unnest($2::bigint[]) as digest,
        unnest($3::uuid[]) as key,
        unnest($4::date[]) as day,
        unnest($5::smallint[]) as status,
        unnest($6::text[]) as answer,
        generate_subscripts($1::timestamptz[], 1) as position
) as t
order by t.position
on conflict (day, key) do nothing
