-- coupon::offline::store::find_late
-- touches: none
select
    l.key,
    l.answer
from redemption_late l
where l.key = any($1::uuid[])
