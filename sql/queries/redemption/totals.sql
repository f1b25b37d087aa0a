-- coupon::totals::read
-- touches: redemption=1
-- route: redemption=$1
-- sample: select redemption_id, redemption_id + 1, store_no from redemption limit 1
select
    r.register,
    count(*) filter (where r.kind = 1) as uses,
    coalesce(sum(r.amount) filter (where r.kind = 1), 0)::bigint as uses_amount,
    coalesce(sum(r.discount) filter (where r.kind = 1), 0)::bigint as uses_discount,
    count(*) filter (where r.kind = 1 and r.occurred_at is not null) as offline,
    coalesce(sum(r.amount) filter (where r.kind = 1 and r.occurred_at is not null), 0)::bigint as offline_amount,
    coalesce(sum(r.discount) filter (where r.kind = 1 and r.occurred_at is not null), 0)::bigint as offline_discount,
    count(*) filter (where r.kind = 2 and r.reversed_whole) as whole,
    coalesce(sum(r.amount) filter (where r.kind = 2 and r.reversed_whole), 0)::bigint as whole_amount,
    coalesce(sum(r.discount) filter (where r.kind = 2 and r.reversed_whole), 0)::bigint as whole_discount,
    count(*) filter (where r.kind = 2 and not r.reversed_whole) as part,
    coalesce(sum(r.amount) filter (where r.kind = 2 and not r.reversed_whole), 0)::bigint as part_amount,
    coalesce(sum(r.discount) filter (where r.kind = 2 and not r.reversed_whole), 0)::bigint as part_discount
from {redemption} r
where r.store_no = $3::integer
    and r.redemption_id >= $1::bigint
    and r.redemption_id < $2::bigint
group by r.register
