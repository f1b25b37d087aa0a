-- event::store::exists
-- touches: event=1
-- route: event=$1
-- sample: select array[event_id] from event limit 1
select e.event_id
from {event} e
where e.event_id = any($1::bigint[])
