-- member::store::delete_keys
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key], array[member_id] from member_key limit 1
-- The member is named too: nobody deletes the key of another.
delete from {member_key} k
using (
    select
        unnest($1::uuid[]) as key,
        unnest($2::bigint[]) as member_id
) as t
where k.key = t.key
    and k.key = any($1::uuid[])
    and k.member_id = t.member_id
