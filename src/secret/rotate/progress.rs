//! How far a walk has come: rows of `key_walk`, by step and leaf.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

/// A walk of one leaf.
#[derive(Debug, Clone, Default, FromRow)]
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
    let mut found = find(conn, step).await?;
    if leaves.iter().all(|leaf| found.get(leaf).is_some_and(|walk| walk.done)) {
        forget(conn, step).await?;
        found.clear();
    }
    let fresh = |leaf: &String| Walk { leaf: leaf.clone(), ..Walk::default() };
    Ok(leaves.iter().map(|leaf| found.remove(leaf).unwrap_or_else(|| fresh(leaf))).collect())
}

/// Whether a step has come to the end of every leaf.
pub(super) async fn is_done(conn: &mut PgConnection, step: &str, leaves: &[String]) -> Result<bool, sqlx::Error> {
    let found = find(conn, step).await?;
    Ok(leaves.iter().all(|leaf| found.get(leaf).is_some_and(|walk| walk.done)))
}

async fn find(conn: &mut PgConnection, step: &str) -> Result<HashMap<String, Walk>, sqlx::Error> {
    let rows: Vec<Walk> =
        sqlx::query_as("select leaf, after_id, after_key, seen, written, done from key_walk where step = $1")
            .bind(step)
            .fetch_all(conn)
            .await?;
    Ok(rows.into_iter().map(|walk| (walk.leaf.clone(), walk)).collect())
}

pub(super) async fn save(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    step: &str,
    walk: &Walk,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into key_walk (updated_at, after_id, after_key, seen, written, done, step, leaf)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (step, leaf) do update
         set updated_at = excluded.updated_at, after_id = excluded.after_id, after_key = excluded.after_key,
             seen = excluded.seen, written = excluded.written, done = excluded.done",
    )
    .bind(now)
    .bind(walk.after_id)
    .bind(walk.after_key)
    .bind(walk.seen)
    .bind(walk.written)
    .bind(walk.done)
    .bind(step)
    .bind(&walk.leaf)
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn forget(conn: &mut PgConnection, step: &str) -> Result<(), sqlx::Error> {
    sqlx::query("delete from key_walk where step = $1").bind(step).execute(conn).await?;
    Ok(())
}
