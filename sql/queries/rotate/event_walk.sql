-- secret::rotate::blind
-- touches: event=all (a walk over all days that are kept)
-- given: insert into event (event_id, created_at, subject, kind) select max(event_id) + 1, now(), 7, 3 from event
--   having count(*) > 0
-- sample: select min(event_id) - 1, 3::smallint, 1000000::bigint from event having count(*) > 0
select
    max(w.event_id),
    array_agg(w.event_id) filter (where w.kind = $2 and w.subject <> 0)
from (
    select
        e.event_id,
        e.kind,
        e.subject
    from {event} e
    where e.event_id > $1
    order by e.event_id
    limit $3::bigint
) w
