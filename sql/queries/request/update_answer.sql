-- request::store::update_answers
-- touches: request=1
-- route: request=$1
-- sample: select array[day], array[key], array[status], array[answer] from request limit 1
update {request} r
set
    status = t.status,
    answer = t.answer
from (
    select
        unnest($1::date[]) as day,
        unnest($2::uuid[]) as key,
        unnest($3::smallint[]) as status,
        unnest($4::text[]) as answer
) as t
where r.day = any(array[t.day])
    and r.key = t.key
