-- verify::ledger::mend
-- touches: redemption=1
-- route: redemption=$1
-- sample: select array[redemption_id], reversed, reversed_whole from redemption limit 1
update {redemption} r
set
    reversed = $2::bigint,
    reversed_whole = $3::boolean
where r.redemption_id = any($1::bigint[])
