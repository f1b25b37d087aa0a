-- Members that answers told of, and are not there: $1 members.
select format('member %s: not there', t.member_id)
from unnest($1::bigint[]) as t (member_id)
left join member m on m.member_id = t.member_id
where m.member_id is null
