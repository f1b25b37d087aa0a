-- coupon::rule_store::list_rules
-- touches: none
-- Newest first: ids carry their time.
select
    r.state,
    r.revision,
    r.created_at,
    r.updated_at,
    v.rule_id as "rule_id: RuleId",
    v.version,
    v.amount,
    v.threshold,
    v.cap,
    v.stock,
    v.stock_per_day,
    v.stock_per_store,
    v.budget,
    v.budget_per_day,
    v.budget_per_store,
    v.valid_from,
    v.valid_until,
    v.days_after_issue,
    v.per_member,
    v.basis_points,
    v.reverse_days,
    v.discount,
    v.uses,
    v.cycles_max,
    v.claimable,
    v.currency,
    v.name,
    v.gift_sku,
    v.stores_in as "stores_in: Vec<StoreNo>",
    v.stores_out as "stores_out: Vec<StoreNo>",
    v.regions_in,
    v.regions_out
from coupon_rule r
join coupon_rule_version v on v.rule_id = r.rule_id and v.version = r.version
where ($1::bigint is null or r.rule_id < $1)
    and ($2::smallint is null or r.state = $2)
order by r.rule_id desc
limit $3
