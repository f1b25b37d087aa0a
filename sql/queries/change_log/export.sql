-- member::export::store::list_log
-- touches: change_log=all (an export of a person goes back to the beginning; each leaf by its index)
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
