-- member::store::lock_member
-- touches: member=1
-- route: member=$1
-- sample: select array[member_id] from member limit 1
-- The rows are locked in the order of the array.
select
    m.member_id,
    m.created_at,
    m.updated_at,
    m.phone_bound_at,
    m.email_bound_at,
    m.phone_verified_at,
    m.email_verified_at,
    m.erased_at,
    m.version,
    m.home_store_no,
    m.state,
    m.kind,
    m.gender,
    m.source,
    m.level,
    m.muted,
    m.phone,
    m.email,
    m.name,
    m.birthday,
    m.nickname,
    m.signature,
    m.attributes,
    m.avatar
from (
    select
        unnest($1::bigint[]) as member_id,
        generate_subscripts($1::bigint[], 1) as position
    order by position
) as t
cross join lateral (
    select
        m.member_id,
        m.created_at,
        m.updated_at,
        m.phone_bound_at,
        m.email_bound_at,
        m.phone_verified_at,
        m.email_verified_at,
        m.erased_at,
        m.version,
        m.home_store_no,
        m.state,
        m.kind,
        m.gender,
        m.source,
        m.level,
        m.muted,
        m.phone,
        m.email,
        m.name,
        m.birthday,
        m.nickname,
        m.signature,
        m.attributes::text as attributes,
        m.avatar::text as avatar
    from {member} m
    where m.member_id = t.member_id
    for update
) as m
