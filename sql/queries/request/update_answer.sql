-- request::store::update_answers
-- touches: request=1
-- route: request=$1
-- sample: select array[day], array[key], array[status], array[answer] from request limit 1
update {request} r
set
    status = t.status,
    answer = t.answer
from unnest($1::date[], $2::uuid[], $3::smallint[], $4::text[]) as t (day, key, status, answer)
where r.day = t.day
    and r.day = any($1::date[])
    and r.key = t.key
    and r.key = any($2::uuid[])
