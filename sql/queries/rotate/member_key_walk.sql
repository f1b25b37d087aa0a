-- secret::rotate::blind
-- touches: member_key=all (a walk names one leaf at a time)
-- sample: select null::uuid, 1::bigint from member_key limit 1
select
    k.key,
    k.key_version
from {member_key} k
where $1::uuid is null or k.key > $1
order by k.key
limit $2::bigint
