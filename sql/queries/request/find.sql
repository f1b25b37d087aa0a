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
from (
    select
        unnest($1::date[]) as day,
        unnest($2::uuid[]) as key
) as t
cross join lateral (
    select
        r.day,
        r.key,
        r.digest,
        r.status,
        r.answer
    from {request} r
    where r.day = t.day
        and r.key = t.key
    limit 1
) as r
