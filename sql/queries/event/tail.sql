-- event::tail::read
-- touches: event=3
-- sample: select ((max(event_id) >> 41) - 1) << 41, ((max(event_id) >> 41) + 2) << 41,
--   min(xid)::text || ':' || min(xid)::text || ':', pg_current_snapshot()::text, array_agg(distinct kind), 10::bigint
--   from event having count(*) > 0
-- Yesterday's, today's and tomorrow's leaf: what the snapshot $4 sees and the earlier one, $3, did not. The bounds on
-- xid follow from that; they and the order let the index event_xid serve it, also on a leaf too young for statistics.
select
    e.event_id,
    e.kind,
    e.subject
from {event} e
where e.event_id >= $1::bigint
    and e.event_id < $2::bigint
    and e.xid >= pg_snapshot_xmin($3::text::pg_snapshot)
    and e.xid < pg_snapshot_xmax($4::text::pg_snapshot)
    and not pg_visible_in_snapshot(e.xid, $3::text::pg_snapshot)
    and pg_visible_in_snapshot(e.xid, $4::text::pg_snapshot)
    and e.kind = any($5::smallint[])
order by e.xid
limit $6::bigint
