-- coupon::list::list_of_rule
-- touches: coupon_index=1
-- route: coupon_index=$1
-- sample: select rule_id, code_id, code_id + 1, null::smallint, null::timestamptz, null::timestamptz, 2000::bigint, 51::bigint
--   from coupon_index limit 1
-- Looks at so many rows and no more, in the order of their codes, and stops when the page is full. The last row that is looked
-- at comes back whether it fits or not: there the next page goes on.
select
    s.code_id,
    s.valid_until,
    s.member_id,
    s.state,
    s.referrer,
    s.place,
    s.fits
from (
    select
        i.code_id,
        i.valid_until,
        i.member_id,
        i.state,
        i.referrer,
        row_number() over (order by i.code_id) as place,
        ($4::smallint is null or i.state = $4)
            and ($5::timestamptz is null or i.valid_until >= $5)
            and ($6::timestamptz is null or i.valid_until < $6) as fits
    from {coupon_index} i
    where i.rule_id = $1::bigint
        and i.code_id >= $2::bigint
        and i.code_id < $3::bigint
    order by i.code_id
    limit $7::bigint
) s
where s.fits or s.place = $7
order by s.code_id
limit $8::bigint
