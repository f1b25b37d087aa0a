-- member::log::read::list_of_subject
-- touches: audit_log=1
-- route: audit_log=$1
-- given: insert into audit_log (log_id, subject, created_at, what, actor, body)
--   values ((now()::date - date '2000-01-01')::bigint << 41, 1, now(), 1, 'sample', '{}')
-- sample: select log_id, log_id + 1, subject, null::text, null::smallint, 51::bigint from audit_log
--   where subject is not null limit 1
-- What was done to one member, by the index, within days of one month.
select
    l.log_id,
    l.subject as member_id,
    l.created_at,
    null::integer as store_no,
    l.what,
    l.actor,
    l.body
from {audit_log} l
where l.subject = $3::bigint
    and l.log_id >= $1::bigint
    and l.log_id < $2::bigint
    and ($4::text is null or l.actor = $4::text)
    and ($5::smallint is null or l.what = $5::smallint)
order by l.log_id desc
limit $6::bigint
