-- member::log::store::insert_change
-- touches: change_log=1
-- route: change_log=$1
-- sample: select array[coalesce(max(log_id) + 1, (now()::date - date '2000-01-01')::bigint << 41)], array[1::bigint],
--   array[now()], array[null::integer], array[1::smallint], array['sample'], array['{}'] from change_log
insert into {change_log} (log_id, member_id, created_at, store_no, what, actor, body)
select t.log_id, t.member_id, t.created_at, t.store_no, t.what, t.actor, t.body
from (
    select
        unnest($1::bigint[]) as log_id,
        unnest($2::bigint[]) as member_id,
        unnest($3::timestamptz[]) as created_at,
        unnest($4::integer[]) as store_no,
        unnest($5::smallint[]) as what,
        unnest($6::text[]) as actor,
        unnest($7::text[]) as body,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
