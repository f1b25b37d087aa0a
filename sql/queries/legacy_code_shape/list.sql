-- coupon::legacy::list_shapes
-- touches: none
select
    s.created_at,
    s.name,
    s.length_min,
    s.length_max,
    s.alphabet
from legacy_code_shape s
where ($1::text is null or s.name > $1)
order by s.name
limit $2
