-- member::log::store::insert_audit
-- touches: audit_log=1
-- route: audit_log=$1
-- sample: select array[coalesce(max(log_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[1::bigint],
--   array[now()], array[1::smallint], array['sample'], array['{}'] from audit_log
insert into {audit_log} (log_id, subject, created_at, what, actor, body)
select t.log_id, t.subject, t.created_at, t.what, t.actor, t.body
from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::smallint[], $5::text[], $6::text[])
    with ordinality as t (log_id, subject, created_at, what, actor, body, position)
order by t.position
