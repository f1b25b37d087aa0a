-- event::store::insert
-- touches: event=1
-- route: event=$1
-- sample: select array[max(event_id) + 1], array[now()], array[1::bigint], array[1::smallint], array[null::text] from event having count(*) > 0
insert into {event} (event_id, created_at, subject, kind, body)
select t.event_id, t.created_at, t.subject, t.kind, t.body
from (
    select
        unnest($1::bigint[]) as event_id,
        unnest($2::timestamptz[]) as created_at,
        unnest($3::bigint[]) as subject,
        unnest($4::smallint[]) as kind,
        unnest($5::text[]) as body,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
