-- member::export::store::list_log
-- touches: change_log=all (an export of a person goes back to the beginning; each leaf by its index)
-- given: insert into change_log (log_id, member_id, created_at, what, actor, body)
--   values ((now()::date - date '2000-01-01')::bigint << 41, 1, now(), 1, 'sample', '{}')
-- sample: select member_id, 10::bigint from change_log limit 1
select
    l.created_at,
    l.what,
    l.actor,
    l.body
from {change_log} l
where l.member_id = $1
order by l.log_id
limit $2
