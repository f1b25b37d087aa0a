-- verify::ledger::chunk
-- touches: redemption=all (a walk names one leaf at a time)
-- sample: select redemption_id - 1, 1::bigint from redemption limit 1
select
    r.redemption_id,
    r.code_id
from {redemption} r
where r.redemption_id > $1::bigint
order by r.redemption_id
limit $2::bigint
