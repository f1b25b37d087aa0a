-- verify::member_key::MEMBER
-- touches: member=all (a sample names one leaf at a time)
-- sample: select ctid::text, '(' || split_part(trim(both '()' from ctid::text), ',', 1)::bigint + 1 || ',0)' from member limit 1
select
    m.member_id,
    m.phone_bound_at,
    m.email_bound_at,
    m.phone,
    m.email
from {member} m
where m.ctid >= $1::text::tid and m.ctid < $2::text::tid
