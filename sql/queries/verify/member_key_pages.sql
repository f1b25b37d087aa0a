-- verify::member_key::KEY
-- touches: member_key=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from member_key limit 1
select
    k.key,
    k.member_id,
    k.bound_at,
    k.key_version,
    k.kind
from {member_key} k
where k.ctid >= $1::text::tid and k.ctid < $2::text::tid
