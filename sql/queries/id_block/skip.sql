-- db::migrate::restored
-- touches: none
update id_block
set next = next + $1
returning name, next
