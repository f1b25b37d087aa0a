-- chain::key::list_keys
-- touches: none
select
    k.key_id,
    k.name,
    k.role,
    s.store_id as "store_id?",
    k.created_at,
    k.revoked_at
from api_key k
left join store s on s.store_no = k.store_no
order by k.name
