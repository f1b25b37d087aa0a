-- chain::key::find_key
-- touches: none
select
    k.key_id,
    k.name,
    k.role,
    k.store_no as "store_no?: StoreNo",
    s.store_id as "store_id?",
    k.secret_sha256
from api_key k
left join store s on s.store_no = k.store_no
where k.key_id = $1
    and k.revoked_at is null
