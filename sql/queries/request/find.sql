-- request::store::find
-- touches: request=1
-- route: request=$1
-- sample: select array[day], array[key] from request limit 1
select
    r.day,
    r.key,
    r.digest,
    r.status,
    r.answer
from unnest($1::date[], $2::uuid[]) as t (day, key)
join {request} r on r.day = t.day and r.key = t.key
where r.day = any($1::date[])
    and r.key = any($2::uuid[])
