//! The SQL of the logs. They come after the member's own tables and before `event` in the order of locks.

use chrono::{DateTime, Utc};

use super::{Audit, Change, Registration};
use crate::{
    db::lane::{Target, Tx, WriteError, expect_rows},
    id::StoreNo,
    partition::{plan, query},
};

/// Writes down how a member came to be, in the transaction that registers.
pub async fn insert_registration(
    tx: &mut Tx<'_>,
    now: DateTime<Utc>,
    registration: &Registration<'_>,
) -> Result<(), WriteError> {
    let leaf = plan("register_log").leaf_i64(registration.log_id.get());
    let sql = tx.sql(query("register_log/insert"), Target::Leaf(leaf));
    let inserted = sqlx::query(sql)
        .bind([registration.log_id.get()])
        .bind([registration.member_id])
        .bind([now])
        .bind([registration.actor.store_no.map(StoreNo::get)])
        .bind([registration.source.number()])
        .bind([&*registration.actor.name])
        .execute(tx.conn().await?)
        .await?;
    expect_rows("register_log", 1, inserted.rows_affected())
}

/// Writes down a change in the transaction that makes it.
pub async fn insert_change(tx: &mut Tx<'_>, now: DateTime<Utc>, change: &Change<'_>) -> Result<(), WriteError> {
    let leaf = plan("change_log").leaf_i64(change.log_id.get());
    let sql = tx.sql(query("change_log/insert"), Target::Leaf(leaf));
    let inserted = sqlx::query(sql)
        .bind([change.log_id.get()])
        .bind([change.member_id])
        .bind([now])
        .bind([change.actor.store_no.map(StoreNo::get)])
        .bind([change.what.number()])
        .bind([&*change.actor.name])
        .bind([change.body.to_string()])
        .execute(tx.conn().await?)
        .await?;
    expect_rows("change_log", 1, inserted.rows_affected())
}

/// Writes down what only few may do, in the transaction that does it.
pub async fn insert_audit(tx: &mut Tx<'_>, now: DateTime<Utc>, audit: &Audit<'_>) -> Result<(), WriteError> {
    let leaf = plan("audit_log").leaf_i64(audit.log_id.get());
    let sql = tx.sql(query("audit_log/insert"), Target::Leaf(leaf));
    let inserted = sqlx::query(sql)
        .bind([audit.log_id.get()])
        .bind([audit.subject])
        .bind([now])
        .bind([audit.what.number()])
        .bind([&*audit.actor.name])
        .bind([audit.body.to_string()])
        .execute(tx.conn().await?)
        .await?;
    expect_rows("audit_log", 1, inserted.rows_affected())
}
