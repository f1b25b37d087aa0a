-- chain::key::list_revoked_since
-- touches: none
select k.key_id
from api_key k
where k.revoked_at >= $1
