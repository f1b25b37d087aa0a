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
from (
    select
        unnest($1::bigint[]) as redemption_id,
        unnest($2::bigint[]) as reversed,
        unnest($3::bigint[]) as returned,
        unnest($4::boolean[]) as reversed_whole,
        unnest($5::text[]) as lines
) as t
where r.redemption_id = any(array[t.redemption_id])
