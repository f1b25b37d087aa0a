-- A coupon, its rule's index and its holder's say the same. $1 rules.
select format('coupon %s: state %s, in its rule''s index %s, in its holder''s %s', i.code_id, coalesce(c.state::text, 'none'),
    i.state, coalesce(h.state::text, 'none'))
from coupon_index i
left join coupon c on c.code_id = i.code_id
left join coupon_receive h on h.member_id = i.member_id and h.code_id = i.code_id
where i.rule_id = any($1)
    and (c.code_id is null
        or c.rule_id <> i.rule_id
        or c.state <> i.state
        or c.member_id is distinct from i.member_id
        or (i.member_id is not null and h.state is distinct from c.state))
