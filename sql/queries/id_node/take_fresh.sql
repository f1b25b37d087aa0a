-- id::lease::NodeLease::acquire
-- touches: none
insert into id_node (lease_until, holder, node)
select clock_timestamp() + make_interval(secs => $2), $1, n
from generate_series(0, $3::smallint - 1) as n
where not exists (select from id_node where id_node.node = n)
order by n
limit 1
on conflict (node) do nothing
returning
    node,
    lease_until as "until!"
