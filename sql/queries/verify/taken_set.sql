-- verify::count::mend_taken
-- touches: member_rule=1
-- route: member_rule=$1
-- sample: select array[member_id], array[rule_id], taken from member_rule limit 1
update {member_rule} r
set
    taken = $3::integer
where r.member_id = any($1::bigint[]) and r.rule_id = any($2::bigint[])
