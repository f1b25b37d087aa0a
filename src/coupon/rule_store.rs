//! The SQL of rules. Their tables are not partitioned; the statements run on a connection of the office or, for a rule
//! that a batch meets and memory does not hold, on the lane's.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::rule::{Discount, GiftSku, Limit, Places, Rule, RuleState, RuleVersion, Undo, Validity};
use crate::id::{RuleId, StoreNo};

/// A version of a rule with the head of the rule.
struct RuleRow {
    state: i16,
    revision: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    rule_id: RuleId,
    version: i32,
    amount: Option<i64>,
    threshold: i64,
    cap: Option<i64>,
    stock: Option<i64>,
    stock_per_day: Option<i64>,
    stock_per_store: Option<i64>,
    budget: Option<i64>,
    budget_per_day: Option<i64>,
    budget_per_store: Option<i64>,
    valid_from: Option<DateTime<Utc>>,
    valid_until: Option<DateTime<Utc>>,
    days_after_issue: Option<i32>,
    per_member: Option<i32>,
    basis_points: Option<i32>,
    reverse_days: Option<i32>,
    discount: i16,
    uses: i16,
    cycles_max: i16,
    claimable: bool,
    currency: String,
    name: String,
    gift_sku: Option<String>,
    stores_in: Option<Vec<StoreNo>>,
    stores_out: Option<Vec<StoreNo>>,
    regions_in: Option<Vec<String>>,
    regions_out: Option<Vec<String>>,
}

impl RuleRow {
    fn impossible(&self, column: &str) -> sqlx::Error {
        sqlx::Error::Decode(format!("{column} of {} is impossible", self.rule_id).into())
    }

    fn discount(&self) -> Result<Discount, sqlx::Error> {
        match (self.discount, self.amount, self.basis_points, &self.gift_sku) {
            (1, Some(amount), None, None) => Ok(Discount::AmountOff { amount }),
            (2, None, Some(basis_points), None) => Ok(Discount::PercentOff { basis_points, cap: self.cap }),
            (3, Some(amount), None, None) => Ok(Discount::FixedPrice { amount }),
            (4, Some(amount), None, Some(sku)) => {
                let sku = GiftSku::parse(sku.clone()).map_err(|_| self.impossible("coupon_rule_version.gift_sku"))?;
                Ok(Discount::Gift { sku, amount })
            }
            _ => Err(self.impossible("coupon_rule_version.discount")),
        }
    }

    fn version(self) -> Result<RuleVersion, sqlx::Error> {
        let discount = self.discount()?;
        let validity = match (self.valid_until, self.days_after_issue) {
            (Some(until), None) => Validity::Fixed { from: self.valid_from, until },
            (None, Some(days)) => Validity::DaysAfterIssue(days),
            _ => return Err(self.impossible("coupon_rule_version.valid_until")),
        };
        let regions = |ids: Option<Vec<String>>| ids.map(|ids| ids.into_iter().map(Arc::from).collect());
        Ok(RuleVersion {
            rule_id: self.rule_id,
            version: self.version,
            name: self.name,
            discount,
            currency: self.currency,
            threshold: self.threshold,
            validity,
            stock: Limit { total: self.stock, per_day: self.stock_per_day, per_store: self.stock_per_store },
            budget: Limit { total: self.budget, per_day: self.budget_per_day, per_store: self.budget_per_store },
            per_member: self.per_member,
            uses: self.uses,
            places: Places {
                stores_in: self.stores_in,
                regions_in: regions(self.regions_in),
                stores_out: self.stores_out.unwrap_or_default(),
                regions_out: regions(self.regions_out).unwrap_or_default(),
            },
            undo: Undo { days: self.reverse_days, cycles_max: self.cycles_max },
            claimable: self.claimable,
        })
    }

    fn rule(self) -> Result<Rule, sqlx::Error> {
        let state = RuleState::from_number(self.state).ok_or_else(|| self.impossible("coupon_rule.state"))?;
        let (revision, created_at, updated_at) = (self.revision, self.created_at, self.updated_at);
        Ok(Rule { state, revision, created_at, updated_at, current: Arc::new(self.version()?) })
    }
}

/// A rule with the version that issuing uses.
pub async fn find_rule(conn: &mut PgConnection, rule_id: RuleId) -> Result<Option<Rule>, sqlx::Error> {
    let row = sqlx::query_file_as!(RuleRow, "sql/queries/coupon_rule/find.sql", rule_id.get());
    row.fetch_optional(conn).await?.map(RuleRow::rule).transpose()
}

pub async fn find_version(
    conn: &mut PgConnection,
    rule_id: RuleId,
    version: i32,
) -> Result<Option<RuleVersion>, sqlx::Error> {
    let row = sqlx::query_file_as!(RuleRow, "sql/queries/coupon_rule/find_version.sql", rule_id.get(), version);
    row.fetch_optional(conn).await?.map(RuleRow::version).transpose()
}

/// Locks the head of a rule and reads it.
pub async fn get_rule_for_update(conn: &mut PgConnection, rule_id: RuleId) -> Result<Option<Rule>, sqlx::Error> {
    sqlx::query_file!("sql/queries/coupon_rule/lock.sql", rule_id.get()).fetch_optional(&mut *conn).await?;
    find_rule(conn, rule_id).await
}

/// Writes a new rule with its first version. Runs in a transaction of the caller's.
pub async fn insert_rule(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    state: RuleState,
    version: &RuleVersion,
) -> Result<(), sqlx::Error> {
    let (rule_id, number) = (version.rule_id.get(), version.version);
    let head = sqlx::query_file!("sql/queries/coupon_rule/insert.sql", rule_id, now, number, state.number());
    head.execute(&mut *conn).await?;
    insert_version(conn, now, version).await
}

/// Writes a version, which is the rule's next or its first.
async fn insert_version(conn: &mut PgConnection, now: DateTime<Utc>, version: &RuleVersion) -> Result<(), sqlx::Error> {
    let (from, until, days) = match version.validity {
        Validity::Fixed { from, until } => (from, Some(until), None),
        Validity::DaysAfterIssue(days) => (None, None, Some(days)),
    };
    let (kind, amount, basis_points, cap, sku) = match &version.discount {
        Discount::AmountOff { amount } => (1_i16, Some(*amount), None, None, None),
        Discount::PercentOff { basis_points, cap } => (2, None, Some(*basis_points), *cap, None),
        Discount::FixedPrice { amount } => (3, Some(*amount), None, None, None),
        Discount::Gift { sku, amount } => (4, Some(*amount), None, None, Some(sku.as_str())),
    };
    let stores = |stores: &[StoreNo]| stores.iter().map(|no| no.get()).collect::<Vec<i32>>();
    let regions = |ids: &[Arc<str>]| ids.iter().map(|id| id.to_string()).collect::<Vec<String>>();
    let some = |list: &[StoreNo]| (!list.is_empty()).then(|| stores(list));
    let places = &version.places;
    let (stores_in, stores_out) = (places.stores_in.as_deref().map(stores), some(&places.stores_out));
    let regions_in = places.regions_in.as_deref().map(regions);
    let regions_out = (!places.regions_out.is_empty()).then(|| regions(&places.regions_out));
    let row = sqlx::query_file!(
        "sql/queries/coupon_rule/insert_version.sql",
        version.rule_id.get(),
        now,
        version.version,
        kind,
        amount,
        basis_points,
        cap,
        sku,
        version.currency,
        version.name,
        version.threshold,
        version.stock.total,
        version.stock.per_day,
        version.stock.per_store,
        version.budget.total,
        version.budget.per_day,
        version.budget.per_store,
        from,
        until,
        days,
        version.per_member,
        version.uses,
        version.undo.days,
        version.undo.cycles_max,
        version.claimable,
        stores_in.as_deref(),
        stores_out.as_deref(),
        regions_in.as_deref(),
        regions_out.as_deref(),
    );
    row.execute(conn).await?;
    Ok(())
}

/// Gives a rule its next version. The head is locked; runs in a transaction of the caller's.
pub async fn update_version(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    version: &RuleVersion,
) -> Result<(), sqlx::Error> {
    insert_version(conn, now, version).await?;
    let head =
        sqlx::query_file!("sql/queries/coupon_rule/update_version.sql", version.rule_id.get(), now, version.version);
    head.execute(conn).await?;
    Ok(())
}

/// Up to `rows_max` rules, newest first, from before `before`.
pub async fn list_rules(
    conn: &mut PgConnection,
    state: Option<RuleState>,
    before: Option<RuleId>,
    rows_max: i64,
) -> Result<Vec<Rule>, sqlx::Error> {
    let rows = sqlx::query_file_as!(
        RuleRow,
        "sql/queries/coupon_rule/list.sql",
        before.map(RuleId::get),
        state.map(RuleState::number),
        rows_max,
    );
    rows.fetch_all(conn).await?.into_iter().map(RuleRow::rule).collect()
}

/// Up to `rows_max` versions of a rule, newest first, from before `before`; `created_at` is the version's.
pub async fn list_versions(
    conn: &mut PgConnection,
    rule_id: RuleId,
    before: Option<i32>,
    rows_max: i64,
) -> Result<Vec<Rule>, sqlx::Error> {
    let rows =
        sqlx::query_file_as!(RuleRow, "sql/queries/coupon_rule/list_versions.sql", rule_id.get(), before, rows_max);
    rows.fetch_all(conn).await?.into_iter().map(RuleRow::rule).collect()
}

/// Moves a rule to another state. The row is locked.
pub async fn update_state(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    rule_id: RuleId,
    state: RuleState,
) -> Result<(), sqlx::Error> {
    let updated = sqlx::query_file!("sql/queries/coupon_rule/update_state.sql", rule_id.get(), now, state.number());
    updated.execute(conn).await?;
    Ok(())
}
