-- chain::key::insert_key
-- touches: none
insert into api_key (created_at, store_no, role, key_id, name, secret_sha256)
values ($1, (select s.store_no from store s where s.store_id = $2), $3, $4, $5, $6)
on conflict do nothing
