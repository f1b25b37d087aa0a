-- verify::member_key::mend
-- touches: member_key=1
-- route: member_key=$1
-- sample: select array[key], array[member_id] from member_key limit 1
delete from {member_key} k
where k.key = any($1::uuid[]) and k.member_id = any($2::bigint[])
