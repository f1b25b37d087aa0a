-- job::store::purge
-- touches: none
delete from job
where state = 1 and updated_at < $1
