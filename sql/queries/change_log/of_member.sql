-- member::log::read::list_of_member
-- touches: change_log=4
-- given: insert into change_log (log_id, member_id, created_at, what, actor, body)
--   values ((now()::date - date '2000-01-01')::bigint << 41, 1, now(), 1, 'sample', '{}')
-- sample: select member_id, log_id - (89::bigint << 41), log_id + 1, 50::bigint from change_log limit 1
-- Three months lie in four leaves at most, each read only when the later ones have not filled the page.
select
    l.log_id,
    l.created_at,
    l.store_no,
    l.what,
    l.body
from {change_log} l
where l.member_id = $1::bigint
    and l.log_id >= $2::bigint
    and l.log_id < $3::bigint
order by l.log_id desc
limit $4::bigint
