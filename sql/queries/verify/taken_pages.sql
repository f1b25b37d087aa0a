-- verify::count::taken_chunk
-- touches: member_rule=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from member_rule limit 1
select
    r.member_id,
    r.rule_id
from {member_rule} r
where r.ctid >= $1::text::tid and r.ctid < $2::text::tid
