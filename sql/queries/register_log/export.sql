-- member::export::store::list_log
-- touches: register_log=all (an export of a person goes back to the beginning; each leaf by its index)
-- sample: select member_id from register_log limit 1
select
    l.created_at,
    l.source,
    l.actor
from {register_log} l
where l.member_id = $1
order by l.log_id
