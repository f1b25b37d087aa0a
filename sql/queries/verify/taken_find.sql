-- verify::count::examine_taken
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id] from member_rule limit 1
select
    r.member_id,
    r.rule_id,
    r.taken,
    r.retired
from (
    select
        unnest($1::bigint[]) as member_id,
        unnest($2::bigint[]) as rule_id
) as t
join {member_rule} r on r.member_id = t.member_id and r.rule_id = t.rule_id
