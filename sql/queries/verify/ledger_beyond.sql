-- verify::ledger::beyond
-- touches: redemption=all (a walk names one leaf at a time)
-- sample: select code_id - 1, 1::bigint from redemption limit 1
select r.code_id
from {redemption} r
where r.code_id > $1::bigint
order by r.code_id
limit $2::bigint
