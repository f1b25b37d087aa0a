-- request::store::delete
-- touches: request=1
-- route: request=$1
-- sample: select array[day], array[key] from request limit 1
delete from {request} r
using (
    select
        unnest($1::date[]) as day,
        unnest($2::uuid[]) as key
) as t
where r.day = any(array[t.day])
    and r.key = t.key
