-- coupon::store::release_legacy
-- touches: coupon_history_index=1
-- route: coupon_history_index=$1
-- given: update coupon set legacy_key = gen_random_uuid() where code_id = (select max(code_id) from coupon);
--   insert into coupon_history_index (legacy_key, code_id) select legacy_key, code_id from coupon where code_id = (select max(code_id) from coupon)
-- sample: select array[legacy_key], array[code_id] from coupon_history_index limit 1
-- Claims of rows that were refused afterwards.
delete from {coupon_history_index} i
where i.legacy_key = any($1::uuid[]) and i.code_id = any($2::bigint[])
