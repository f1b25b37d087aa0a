-- verify::count::taken_chunk
-- touches: member_rule=all (a walk names one leaf at a time)
-- sample: select member_id, rule_id - 1, 1::bigint from member_rule limit 1
select
    r.member_id,
    r.rule_id,
    r.taken,
    r.retired
from {member_rule} r
where $1::bigint is null or (r.member_id, r.rule_id) > ($1, $2::bigint)
order by r.member_id, r.rule_id
limit $3::bigint
