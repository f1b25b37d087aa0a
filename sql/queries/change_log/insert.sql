-- member::log::store::insert_change
-- touches: change_log=1
-- route: change_log=$1
-- sample: select array[coalesce(max(log_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[1::bigint],
--   array[now()], array[null::integer], array[1::smallint], array['sample'], array['{}'] from change_log
insert into {change_log} (log_id, member_id, created_at, store_no, what, actor, body)
select t.log_id, t.member_id, t.created_at, t.store_no, t.what, t.actor, t.body
from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::smallint[], $6::text[], $7::text[])
    with ordinality as t (log_id, member_id, created_at, store_no, what, actor, body, position)
order by t.position
