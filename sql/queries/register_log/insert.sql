-- member::log::store::insert_registration
-- touches: register_log=1
-- route: register_log=$1
-- sample: select array[coalesce(max(log_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[1::bigint],
--   array[now()], array[null::integer], array[1::smallint], array['sample'] from register_log
insert into {register_log} (log_id, member_id, created_at, store_no, source, actor)
select t.log_id, t.member_id, t.created_at, t.store_no, t.source, t.actor
from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::smallint[], $6::text[])
    with ordinality as t (log_id, member_id, created_at, store_no, source, actor, position)
order by t.position
