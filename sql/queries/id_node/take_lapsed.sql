-- id::lease::NodeLease::acquire
-- touches: none
-- The row lock makes the old lease_until that comes back the very one that is replaced. The keys were the old holder's.
with lapsed as (
    select n.node, n.lease_until
    from id_node n
    where n.lease_until < clock_timestamp() - make_interval(secs => $2::float8 / 1000)
    order by n.lease_until
    limit 1
    for update skip locked
)
update id_node
set holder = $1,
    lease_until = clock_timestamp() + make_interval(secs => $3),
    check_from = null,
    pii_current = null,
    pii = null,
    blind_current = null,
    blind_written = null,
    blind = null
from lapsed
where id_node.node = lapsed.node
returning
    id_node.node,
    lapsed.lease_until as "floor!",
    id_node.lease_until as "until!"
