//! What a database remembers of its dataset, in a schema of its own: which one it is, and the leaves that are done.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, bail};
use sqlx::PgConnection;

use crate::dataset::Shape;

const SCHEMA: &str = "
    create schema if not exists loadtest;
    create table if not exists loadtest.dataset (
        one boolean primary key default true check (one),
        started_at timestamptz not null default statement_timestamp(),
        finished_at timestamptz,
        shape text not null
    );
    create table if not exists loadtest.leaf (
        leaf text primary key,
        belongs_to text not null, -- the table
        rows bigint not null,
        copy_secs double precision not null,
        keys_secs double precision not null
    )";

/// One that is done.
#[derive(Debug, Clone)]
pub struct Done {
    pub table: String,
    pub rows: u64,
    pub copy_secs: f64,
    pub keys_secs: f64,
}

/// The dataset that is being built here or was, and whether it is whole.
///
/// # Errors
/// The database's; a shape that this program does not know.
pub async fn find(conn: &mut PgConnection) -> anyhow::Result<Option<(Shape, bool)>> {
    let known: bool =
        sqlx::query_scalar("select to_regclass('loadtest.dataset') is not null").fetch_one(&mut *conn).await?;
    if !known {
        return Ok(None);
    }
    let row: Option<(String, bool)> =
        sqlx::query_as("select shape, finished_at is not null from loadtest.dataset").fetch_optional(conn).await?;
    let Some((text, finished)) = row else { return Ok(None) };
    let shape: Shape = serde_json::from_str(&text).context("what stands in loadtest.dataset is no shape")?;
    if let Err(why) = shape.check() {
        bail!("the dataset of this database is not known to this program: {why}");
    }
    Ok(Some((shape, finished)))
}

/// Marks the database as holding this dataset. In the caller's transaction.
///
/// # Errors
/// The database's.
pub async fn begin(conn: &mut PgConnection, shape: &Shape) -> anyhow::Result<()> {
    sqlx::raw_sql(SCHEMA).execute(&mut *conn).await?;
    let text = serde_json::to_string(shape)?;
    sqlx::query("insert into loadtest.dataset (shape) values ($1)").bind(text).execute(conn).await?;
    Ok(())
}

/// Remembers that a leaf is done, in the transaction that made it.
///
/// # Errors
/// The database's.
pub async fn record(
    conn: &mut PgConnection,
    leaf: &str,
    table: &str,
    rows: u64,
    copying: Duration,
    keys: Duration,
) -> anyhow::Result<()> {
    sqlx::query("insert into loadtest.leaf (leaf, belongs_to, rows, copy_secs, keys_secs) values ($1, $2, $3, $4, $5)")
        .bind(leaf)
        .bind(table)
        .bind(rows as i64)
        .bind(copying.as_secs_f64())
        .bind(keys.as_secs_f64())
        .execute(conn)
        .await?;
    Ok(())
}

/// The leaves that are done, by name.
///
/// # Errors
/// The database's.
pub async fn done(conn: &mut PgConnection) -> anyhow::Result<BTreeMap<String, Done>> {
    let rows: Vec<(String, String, i64, f64, f64)> =
        sqlx::query_as("select leaf, belongs_to, rows, copy_secs, keys_secs from loadtest.leaf")
            .fetch_all(conn)
            .await?;
    let done = |(leaf, table, rows, copy_secs, keys_secs): (String, String, i64, f64, f64)| {
        (leaf, Done { table, rows: rows as u64, copy_secs, keys_secs })
    };
    Ok(rows.into_iter().map(done).collect())
}

/// All of it is there.
///
/// # Errors
/// The database's.
pub async fn finish(conn: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::query("update loadtest.dataset set finished_at = statement_timestamp()").execute(conn).await?;
    Ok(())
}
