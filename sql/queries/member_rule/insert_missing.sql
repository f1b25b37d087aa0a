-- coupon::store::lock_member_rules
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[0::bigint] from member_rule limit 1
insert into {member_rule} (member_id, rule_id)
select t.member_id, t.rule_id
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as rule_id,
        generate_subscripts($1::bigint[], 1) as position
) as t
order by t.position
on conflict (member_id, rule_id) do nothing
returning member_id
