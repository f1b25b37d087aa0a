//! The SQL of rules. Their tables are not partitioned; the statements run on a connection of the office or, for a rule
//! that a batch meets and memory does not hold, on the lane's.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::rule::{Discount, Rule, RuleState, RuleVersion, Validity};
use crate::id::RuleId;

/// A version of a rule with the head of the rule.
struct RuleRow {
    state: i16,
    revision: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    rule_id: RuleId,
    version: i32,
    amount: i64,
    threshold: i64,
    stock: Option<i64>,
    valid_from: Option<DateTime<Utc>>,
    valid_until: Option<DateTime<Utc>>,
    days_after_issue: Option<i32>,
    per_member: Option<i32>,
    discount: i16,
    uses: i16,
    currency: String,
    name: String,
}

impl RuleRow {
    fn impossible(&self, column: &str) -> sqlx::Error {
        sqlx::Error::Decode(format!("{column} of {} is impossible", self.rule_id).into())
    }

    fn version(self) -> Result<RuleVersion, sqlx::Error> {
        let discount = match self.discount {
            1 => Discount::AmountOff { amount: self.amount },
            _ => return Err(self.impossible("coupon_rule_version.discount")),
        };
        let validity = match (self.valid_until, self.days_after_issue) {
            (Some(until), None) => Validity::Fixed { from: self.valid_from, until },
            (None, Some(days)) => Validity::DaysAfterIssue(days),
            _ => return Err(self.impossible("coupon_rule_version.valid_until")),
        };
        Ok(RuleVersion {
            rule_id: self.rule_id,
            version: self.version,
            name: self.name,
            discount,
            currency: self.currency,
            threshold: self.threshold,
            validity,
            stock: self.stock,
            per_member: self.per_member,
            uses: self.uses,
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
    let Discount::AmountOff { amount } = version.discount;
    let (from, until, days) = match version.validity {
        Validity::Fixed { from, until } => (from, Some(until), None),
        Validity::DaysAfterIssue(days) => (None, None, Some(days)),
    };
    let text = sqlx::query_file!(
        "sql/queries/coupon_rule/insert_version.sql",
        rule_id,
        now,
        amount,
        version.threshold,
        version.stock,
        from,
        until,
        number,
        days,
        version.per_member,
        version.uses,
        version.currency,
        version.name,
    );
    text.execute(conn).await?;
    Ok(())
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
