-- member::export::store::list_log
-- touches: register_log=all (an export of a person goes back to the beginning; each leaf by its index)
-- given: insert into register_log (log_id, member_id, created_at, source, actor)
--   values ((now()::date - date '2000-01-01')::bigint << 41, 1, now(), 1, 'sample')
-- sample: select member_id from register_log limit 1
select
    l.created_at,
    l.source,
    l.actor
from {register_log} l
where l.member_id = $1
order by l.log_id
