-- coupon::store::update_redemptions
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[redemption_id], array[reversed], array[returned], array[reversed_whole], array[lines]
--   from redemption limit 1
update {redemption} r
set
    reversed = t.reversed,
    returned = t.returned,
    reversed_whole = t.reversed_whole,
    lines = t.lines
from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::boolean[], $5::text[])
    as t (redemption_id, reversed, returned, reversed_whole, lines)
where r.redemption_id = t.redemption_id
    and r.redemption_id = any($1::bigint[])
