-- coupon::store::update_member_rules
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id], array[taken], array[last_taken_at] from member_rule limit 1
update {member_rule} m
set
    taken = t.taken,
    last_taken_at = coalesce(t.last_taken_at, m.last_taken_at)
from unnest($1::bigint[], $2::bigint[], $3::integer[], $4::timestamptz[]) as t (member_id, rule_id, taken, last_taken_at)
where m.member_id = t.member_id
    and m.member_id = any($1::bigint[])
    and m.rule_id = t.rule_id
