-- coupon::store::update_member_rules
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id], array[taken], array[last_taken_at] from member_rule limit 1
update {member_rule} m
set
    taken = t.taken,
    last_taken_at = coalesce(t.last_taken_at, m.last_taken_at)
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as rule_id,
        unnest($3::integer[]) as taken,
        unnest($4::timestamptz[]) as last_taken_at
) as t
where m.member_id = any(array[t.member_id])
    and m.rule_id = t.rule_id
