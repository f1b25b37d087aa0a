-- coupon::offline::store::claim_late
-- touches: none
insert into redemption_late (recorded_at, key)
select
    $1::timestamptz,
    t.key
from unnest($2::uuid[]) with ordinality as t (key, position)
order by t.position
on conflict (key) do nothing
returning key
