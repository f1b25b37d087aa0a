-- coupon::store::update_redemptions
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[redemption_id], array[reversed], array[reversed_whole] from redemption limit 1
update {redemption} r
set
    reversed = t.reversed,
    reversed_whole = t.reversed_whole
from unnest($1::bigint[], $2::bigint[], $3::boolean[]) as t (redemption_id, reversed, reversed_whole)
where r.redemption_id = t.redemption_id
    and r.redemption_id = any($1::bigint[])
