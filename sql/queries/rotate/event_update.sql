-- secret::rotate::blind
-- touches: event=1
-- route: event=$1
-- given: insert into event (event_id, created_at, subject, kind) select max(event_id) + 1, now(), 7, 3 from event
--   having count(*) > 0
-- sample: select array[max(event_id)], 3::smallint from event where kind = 3 having count(*) > 0
update {event} e
set subject = 0
where e.event_id = any($1::bigint[])
    and e.kind = $2
