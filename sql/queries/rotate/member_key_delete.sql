-- secret::rotate::blind
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key], key_version from member_key limit 1
delete from {member_key} k
where k.key = any($1::uuid[])
    and k.key_version = $2
