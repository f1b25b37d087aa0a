-- Every process asks twice a second which keys were revoked of late; nearly all are in force.
create index api_key_revoked_at on api_key (revoked_at) where revoked_at is not null;
