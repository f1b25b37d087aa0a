-- request::store::delete
-- touches: request=1
-- route: request=$1
-- sample: select array[day], array[key] from request limit 1
delete from {request} r
using unnest($1::date[], $2::uuid[]) as t (day, key)
where r.day = t.day
    and r.day = any($1::date[])
    and r.key = t.key
    and r.key = any($2::uuid[])
