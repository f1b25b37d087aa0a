-- coupon::offline::store::update_late
-- touches: none
update redemption_late l
set answer = t.answer
from unnest($1::uuid[], $2::text[]) as t (key, answer)
where l.key = t.key
