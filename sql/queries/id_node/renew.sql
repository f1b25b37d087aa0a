-- id::lease::NodeLease::renew
-- touches: none
-- Windows only grow. A lapsed lease that nobody took may be renewed: nobody else had a window in between.
update id_node
set lease_until = greatest(lease_until, clock_timestamp() + make_interval(secs => $3))
where node = $1
    and holder = $2
returning lease_until
