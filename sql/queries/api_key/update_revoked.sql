-- chain::key::update_key_revoked
-- touches: none
update api_key
set revoked_at = $2
where (key_id = $1 or name = $1)
    and revoked_at is null
returning key_id
