-- coupon::legacy::insert_shape
-- touches: none
insert into legacy_code_shape (created_at, name, length_min, length_max, alphabet)
select $1::timestamptz, $2::text, $3::smallint, $4::smallint, $5::text
where (select count(*) from legacy_code_shape) < $6::bigint
on conflict (name) do nothing
