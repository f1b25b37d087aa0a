-- coupon::offline::store::update_resolution
-- touches: redemption_conflict=1
-- route: redemption_conflict=$1
-- given: insert into redemption_conflict (conflict_id, recorded_at, redeemed_at, amount, business_date, store_no,
--   sequence, register, order_ref, reason)
--   values ((now()::date - date '2000-01-01')::bigint << 41, now(), now(), 1, now()::date, 1, 1, '1', 'x', 'coupon_void')
-- sample: select conflict_id, version + 1, now(), 1::smallint, 'x', 'sample' from redemption_conflict limit 1
update {redemption_conflict} c
set
    version = $2::integer,
    resolved_at = $3::timestamptz,
    how = $4::smallint,
    note = $5::text,
    resolved_by = $6::text
where c.conflict_id = $1::bigint
