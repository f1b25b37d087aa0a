//! The SQL of rules. Their tables are not partitioned; the statements run on a connection of the office or, for a rule
//! that a batch meets and memory does not hold, on the lane's.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};

use super::rule::{Discount, Rule, RuleState, RuleVersion, Validity};
use crate::id::RuleId;

fn version_of(row: &PgRow) -> Result<RuleVersion, sqlx::Error> {
    let rule_id: RuleId = row.try_get("rule_id")?;
    let impossible = |column: &str| sqlx::Error::Decode(format!("coupon_rule_version.{column} of {rule_id}").into());
    let discount = match row.try_get::<i16, _>("discount")? {
        1 => Discount::AmountOff { amount: row.try_get("amount")? },
        _ => return Err(impossible("discount")),
    };
    let until: Option<DateTime<Utc>> = row.try_get("valid_until")?;
    let validity = match (until, row.try_get("days_after_issue")?) {
        (Some(until), None) => Validity::Fixed { from: row.try_get("valid_from")?, until },
        (None, Some(days)) => Validity::DaysAfterIssue(days),
        _ => return Err(impossible("valid_until")),
    };
    Ok(RuleVersion {
        rule_id,
        version: row.try_get("version")?,
        name: row.try_get("name")?,
        discount,
        currency: row.try_get("currency")?,
        threshold: row.try_get("threshold")?,
        validity,
        stock: row.try_get("stock")?,
        per_member: row.try_get("per_member")?,
        uses: row.try_get("uses")?,
    })
}

fn state_of(row: &PgRow) -> Result<RuleState, sqlx::Error> {
    let number: i16 = row.try_get("state")?;
    RuleState::from_number(number).ok_or_else(|| sqlx::Error::Decode("coupon_rule.state is impossible".into()))
}

/// A rule with the version that issuing uses.
pub async fn find_rule(conn: &mut PgConnection, rule_id: RuleId) -> Result<Option<Rule>, sqlx::Error> {
    let row = sqlx::query(
        "select r.state, r.revision, r.created_at, r.updated_at, v.rule_id, v.version, v.amount, v.threshold, v.stock, \
         v.valid_from, v.valid_until, v.days_after_issue, v.per_member, v.discount, v.uses, v.currency, v.name \
         from coupon_rule r join coupon_rule_version v on v.rule_id = r.rule_id and v.version = r.version \
         where r.rule_id = $1",
    )
    .bind(rule_id)
    .fetch_optional(conn)
    .await?;
    row.map(|row| {
        Ok(Rule {
            state: state_of(&row)?,
            revision: row.try_get("revision")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            current: Arc::new(version_of(&row)?),
        })
    })
    .transpose()
}

pub async fn find_version(
    conn: &mut PgConnection,
    rule_id: RuleId,
    version: i32,
) -> Result<Option<RuleVersion>, sqlx::Error> {
    let row = sqlx::query(
        "select v.rule_id, v.version, v.amount, v.threshold, v.stock, v.valid_from, v.valid_until, \
         v.days_after_issue, v.per_member, v.discount, v.uses, v.currency, v.name \
         from coupon_rule_version v where v.rule_id = $1 and v.version = $2",
    )
    .bind(rule_id)
    .bind(version)
    .fetch_optional(conn)
    .await?;
    row.map(|row| version_of(&row)).transpose()
}

/// Locks the head of a rule and reads it.
pub async fn get_rule_for_update(conn: &mut PgConnection, rule_id: RuleId) -> Result<Option<Rule>, sqlx::Error> {
    sqlx::query("select r.rule_id from coupon_rule r where r.rule_id = $1 for update")
        .bind(rule_id)
        .execute(&mut *conn)
        .await?;
    find_rule(conn, rule_id).await
}

/// Writes a new rule with its first version. Runs in a transaction of the caller's.
pub async fn insert_rule(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    state: RuleState,
    version: &RuleVersion,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into coupon_rule (rule_id, created_at, updated_at, version, state) values ($1, $2, $2, $3, $4)",
    )
    .bind(version.rule_id)
    .bind(now)
    .bind(version.version)
    .bind(state.number())
    .execute(&mut *conn)
    .await?;
    let Discount::AmountOff { amount } = version.discount;
    let (from, until, days) = match version.validity {
        Validity::Fixed { from, until } => (from, Some(until), None),
        Validity::DaysAfterIssue(days) => (None, None, Some(days)),
    };
    sqlx::query(
        "insert into coupon_rule_version (rule_id, created_at, amount, threshold, stock, valid_from, valid_until, \
         version, days_after_issue, per_member, discount, uses, currency, name) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, $11, $12, $13)",
    )
    .bind(version.rule_id)
    .bind(now)
    .bind(amount)
    .bind(version.threshold)
    .bind(version.stock)
    .bind(from)
    .bind(until)
    .bind(version.version)
    .bind(days)
    .bind(version.per_member)
    .bind(version.uses)
    .bind(&version.currency)
    .bind(&version.name)
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves a rule to another state. The row is locked.
pub async fn update_state(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    rule_id: RuleId,
    state: RuleState,
) -> Result<(), sqlx::Error> {
    sqlx::query("update coupon_rule set state = $3, revision = revision + 1, updated_at = $2 where rule_id = $1")
        .bind(rule_id)
        .bind(now)
        .bind(state.number())
        .execute(conn)
        .await?;
    Ok(())
}
