-- id::block::lease_block
-- touches: none
update id_block
set next = next + $2
where name = $1
returning next
