-- coupon::store::lock_member_rules
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id + 1] from member_rule limit 1
insert into {member_rule} (member_id, rule_id)
select t.member_id, t.rule_id
from unnest($1::bigint[], $2::bigint[]) with ordinality as t (member_id, rule_id, position)
order by t.position
on conflict (member_id, rule_id) do nothing
returning member_id
