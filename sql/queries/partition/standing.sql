-- coupon::bulk::standing_leaves
-- touches: none
-- Which of these tables there are.
select t.name as "name!"
from unnest($1::text[]) as t (name)
where to_regclass(t.name) is not null
