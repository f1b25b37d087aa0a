-- secret::rotate::progress::forget
-- touches: none
delete from key_walk
where step = $1
