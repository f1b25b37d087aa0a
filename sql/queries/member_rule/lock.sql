-- coupon::store::lock_member_rules
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id] from member_rule limit 1
select
    m.member_id,
    m.rule_id,
    m.taken
from unnest($1::bigint[], $2::bigint[]) with ordinality as t (member_id, rule_id, position)
join {member_rule} m on m.member_id = t.member_id and m.rule_id = t.rule_id
where m.member_id = any($1::bigint[])
order by t.position
for update of m
