-- coupon::store::lock_member_rules
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id] from member_rule limit 1
select
    m.member_id,
    m.rule_id,
    m.taken
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as rule_id,
        generate_subscripts($1::bigint[], 1) as position
    order by position
) as t
cross join lateral (
    select
        m.member_id,
        m.rule_id,
        m.taken
    from {member_rule} m
    where m.member_id = t.member_id
        and m.rule_id = t.rule_id
    for update
) as m
