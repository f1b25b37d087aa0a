-- Events of locks and releases of these coupons under a run's orders: $1 codes, $2 kinds, $3 the first id, $4 the first
-- one after them, $5 the beginnings of its orders.
select e.subject, e.kind, o.order_ref, count(*)
from event e
cross join lateral (select e.body::json ->> 'order_ref' as order_ref) o
where e.event_id >= $3 and e.event_id < $4
    and e.kind = any($2)
    and e.subject = any($1)
    and exists (select from unnest($5::text[]) as t (start) where starts_with(o.order_ref, t.start))
group by e.subject, e.kind, o.order_ref
