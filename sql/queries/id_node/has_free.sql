-- id::lease::NodeLease::acquire
-- touches: none
select count(*) < $1 as "has_free!"
from id_node
