-- secret::watch::list_live_nodes
-- touches: none
select
    n.node,
    n.check_from as "check_from?: Day",
    n.pii_current,
    n.pii,
    n.blind_current,
    n.blind_written,
    n.blind
from id_node n
where n.lease_until > clock_timestamp()
order by n.node
