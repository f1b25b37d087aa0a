-- verify::part::sum_money
-- touches: redemption=all (a rule is used in many months)
-- given: update redemption set counted = 1
--   where redemption_id = (select r.redemption_id from redemption r where r.kind = 1 limit 1)
-- sample: select array[rule_id] from redemption where kind = 1 and counted > 0 limit 1
-- What the uses of a rule have taken from its budgets and have, by business day and store.
select
    r.rule_id,
    (r.redemption_id >> 41)::integer,
    r.store_no,
    r.counted,
    sum(r.discount - r.reversed)::bigint
from {redemption} r
where r.rule_id = any($1::bigint[]) and r.kind = 1 and r.counted > 0
group by r.rule_id, (r.redemption_id >> 41)::integer, r.store_no, r.counted
