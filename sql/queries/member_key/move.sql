-- member::binding::store::move_keys
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key], array[member_id], array[member_id], array[now()] from member_key limit 1
-- The holder is named: what it has lost meanwhile is not reached, which the caller counts. Both members are locked.
update {member_key} k
set
    member_id = t.to_member,
    bound_at = t.bound_at
from (
    select
        unnest($1::uuid[]) as key,
        unnest($2::bigint[]) as from_member,
        unnest($3::bigint[]) as to_member,
        unnest($4::timestamptz[]) as bound_at
) as t
where k.key = t.key
    and k.key = any($1::uuid[])
    and k.member_id = t.from_member
