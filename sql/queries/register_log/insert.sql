-- member::log::store::insert_registration
-- touches: register_log=1
-- route: register_log=$1
-- sample: select array[coalesce(max(log_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[1::bigint],
--   array[now()], array[null::integer], array[1::smallint], array['sample'] from register_log
insert into {register_log} (log_id, member_id, created_at, store_no, source, actor)
select t.log_id, t.member_id, t.created_at, t.store_no, t.source, t.actor
from (
    select
        unnest($1::bigint[]) as log_id,
        unnest($2::bigint[]) as member_id,
        unnest($3::timestamptz[]) as created_at,
        unnest($4::integer[]) as store_no,
        unnest($5::smallint[]) as source,
        unnest($6::text[]) as actor,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
