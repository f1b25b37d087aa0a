-- event::store::insert
-- touches: event=1
-- route: event=$1
-- sample: select array[max(event_id) + 1], array[now()], array[1::bigint], array[1::smallint], array[null::text] from event having count(*) > 0
insert into {event} (event_id, created_at, subject, kind, body)
select t.event_id, t.created_at, t.subject, t.kind, t.body
from unnest($1::bigint[], $2::timestamptz[], $3::bigint[], $4::smallint[], $5::text[])
    with ordinality as t (event_id, created_at, subject, kind, body, position)
order by t.position
