-- The stored status of request numbers: $1 days, $2 keys; none where nothing was decided.
select t.no, q.status
from unnest($1::date[], $2::uuid[]) with ordinality as t (day, key, no)
left join request q on q.day = t.day and q.key = t.key
