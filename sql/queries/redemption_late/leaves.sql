-- coupon::offline::store::find_leaves
-- touches: none
select l.name as "name!"
from unnest($1::text[]) as l (name)
where to_regclass(l.name) is not null
