-- id::lease::NodeLease::release
-- touches: none
-- What was minted stays inside the window, so that the next holder's floor lies above it.
update id_node
set lease_until = least(lease_until, greatest(clock_timestamp(), $3))
where node = $1
    and holder = $2
