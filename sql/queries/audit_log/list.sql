-- member::log::read::list
-- touches: audit_log=1
-- route: audit_log=$1
-- given: insert into audit_log (log_id, subject, created_at, what, actor, body)
--   values ((now()::date - date '2000-01-01')::bigint << 41, 1, now(), 1, 'sample', '{}')
-- sample: select log_id, log_id + 1, 10000::bigint, null::text, null::smallint, null::integer, null::bigint, 51::bigint from audit_log limit 1
-- Looks at so many rows and no more, newest first; the last row says how many there were and where the look ended.
with seen as (
    select
        l.log_id,
        l.subject as member_id,
        l.created_at,
        null::integer as store_no,
        l.what,
        l.actor,
        l.body
    from {audit_log} l
    where l.log_id >= $1::bigint
        and l.log_id < $2::bigint
    order by l.log_id desc
    limit $3::bigint
)
(select
    s.log_id,
    s.member_id,
    s.created_at,
    s.store_no,
    s.what,
    s.actor,
    s.body,
    0::bigint as examined
from seen s
where ($4::text is null or s.actor = $4::text)
    and ($5::smallint is null or s.what = $5::smallint)
    and ($6::integer is null or s.store_no = $6::integer)
    and ($7::bigint is null or s.member_id = $7::bigint)
order by s.log_id desc
limit $8::bigint)
union all
select
    min(s.log_id),
    null,
    null,
    null,
    null,
    null,
    null,
    count(s.log_id)
from seen s
