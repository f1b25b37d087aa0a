-- secret::watch::update_holding
-- touches: none
update id_node
set check_from = $3,
    pii_current = $4,
    pii = $5,
    blind_current = $6,
    blind_written = $7,
    blind = $8
where node = $1
    and holder = $2
