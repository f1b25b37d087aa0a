//! How far a walk has come: rows of `key_walk`, by step and leaf.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// A walk of one leaf.
#[derive(Debug, Clone, Default)]
pub(super) struct Walk {
    pub leaf: String,
    pub after_id: Option<i64>,
    pub after_key: Option<Uuid>,
    /// Rows looked at.
    pub seen: i64,
    pub written: i64,
    pub done: bool,
}

/// The walks of a step, by leaf: where an earlier run stopped, or all from the beginning when it came to the end.
pub(super) async fn resume(conn: &mut PgConnection, step: &str, leaves: &[String]) -> Result<Vec<Walk>, sqlx::Error> {
    let mut found = list(conn, step).await?;
    if leaves.iter().all(|leaf| found.get(leaf).is_some_and(|walk| walk.done)) {
        forget(conn, step).await?;
        found.clear();
    }
    let fresh = |leaf: &String| Walk { leaf: leaf.clone(), ..Walk::default() };
    Ok(leaves.iter().map(|leaf| found.remove(leaf).unwrap_or_else(|| fresh(leaf))).collect())
}

/// Whether a step has come to the end of every leaf.
pub(super) async fn is_done(conn: &mut PgConnection, step: &str, leaves: &[String]) -> Result<bool, sqlx::Error> {
    let found = list(conn, step).await?;
    Ok(leaves.iter().all(|leaf| found.get(leaf).is_some_and(|walk| walk.done)))
}

pub(super) async fn list(conn: &mut PgConnection, step: &str) -> Result<HashMap<String, Walk>, sqlx::Error> {
    let rows = sqlx::query_file_as!(Walk, "sql/queries/key_walk/list.sql", step).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|walk| (walk.leaf.clone(), walk)).collect())
}

pub(super) async fn save(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    step: &str,
    walk: &Walk,
) -> Result<(), sqlx::Error> {
    let Walk { leaf, after_id, after_key, seen, written, done } = walk;
    let saved = sqlx::query_file!(
        "sql/queries/key_walk/upsert.sql",
        now,
        *after_id,
        *after_key,
        seen,
        written,
        done,
        step,
        leaf
    );
    saved.execute(conn).await?;
    Ok(())
}

pub(super) async fn forget(conn: &mut PgConnection, step: &str) -> Result<(), sqlx::Error> {
    sqlx::query_file!("sql/queries/key_walk/delete.sql", step).execute(conn).await?;
    Ok(())
}
