-- member::log::store::insert_audit
-- touches: audit_log=1
-- route: audit_log=$1
-- sample: select array[coalesce(max(log_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[1::bigint],
--   array[now()], array[1::smallint], array['sample'], array['{}'] from audit_log
insert into {audit_log} (log_id, subject, created_at, what, actor, body)
select t.log_id, t.subject, t.created_at, t.what, t.actor, t.body
from (
    select
        unnest($1::bigint[]) as log_id,
        unnest($2::bigint[]) as subject,
        unnest($3::timestamptz[]) as created_at,
        unnest($4::smallint[]) as what,
        unnest($5::text[]) as actor,
        unnest($6::text[]) as body,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
