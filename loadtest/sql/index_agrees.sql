-- A coupon, its rule's index and its holder's say the same. $1 codes.
select format('coupon %s: state %s, in its rule''s index %s, in its holder''s %s', t.code_id, coalesce(c.state::text, 'none'),
    coalesce(i.state::text, 'none'), coalesce(h.state::text, 'none'))
from unnest($1::bigint[]) as t (code_id)
left join coupon c on c.code_id = t.code_id
left join coupon_index i on i.rule_id = c.rule_id and i.code_id = c.code_id
left join coupon_receive h on h.member_id = c.member_id and h.code_id = c.code_id
where c.code_id is null
    or i.state is distinct from c.state
    or i.member_id is distinct from c.member_id
    or (c.member_id is not null and h.state is distinct from c.state)
