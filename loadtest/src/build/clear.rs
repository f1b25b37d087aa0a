//! `loadtest drop`: takes away what a build made, and nothing else.

use anyhow::{Context as _, bail};
use sqlx::{AssertSqlSafe, PgConnection};
use tessera::partition::{Leaf, Locked, attached, plans, upkeep};

use super::{leaf, state};

/// Tables of the office that a build fills, those that refer to others first; and a condition for what is not its own.
const OFFICE: [(&str, &str); 7] = [
    ("api_key", "name like 'loadtest-%'"),
    ("register", "true"),
    ("coupon_rule_version", "true"),
    ("coupon_rule", "true"),
    ("store", "true"),
    ("region", "true"),
    ("legacy_code_shape", "name = 'loadtest-13'"),
];
/// Tables that hold rows only where a Tessera has served.
const SERVED: [&str; 2] = ["job", "redemption_late"];

/// Rows that are not of a build: a sentence for each table that has some.
///
/// # Errors
/// The database's.
pub async fn strangers(conn: &mut PgConnection) -> anyhow::Result<Vec<String>> {
    let marked = state::find(conn).await?.is_some();
    let done = if marked { state::done(conn).await? } else { Default::default() };
    let mut found = Vec::new();
    for plan in plans().iter() {
        for other in attached(conn, plan).await? {
            let name = &other.name;
            match done.get(name) {
                None if plan.table == super::stock::TABLE && marked => {}
                None if leaf::has_rows(conn, name).await? => found.push(format!("{name} has rows")),
                None => {}
                Some(built) => {
                    let statement = format!("select count(*) from {name}");
                    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut *conn).await?;
                    if rows as u64 != built.rows {
                        found.push(format!("{name} has {rows} rows, and {} were built", built.rows));
                    }
                }
            }
        }
    }
    for table in SERVED {
        if leaf::has_rows(conn, table).await? {
            found.push(format!("{table} has rows"));
        }
    }
    // Without a mark, nothing in the office is a build's.
    for table in ["store", "region", "coupon_rule", "legacy_code_shape"] {
        if !marked && leaf::has_rows(conn, table).await? {
            found.push(format!("{table} has rows"));
        }
    }
    Ok(found)
}

/// Takes the dataset away; with `with_all` also what a Tessera has written since.
///
/// # Errors
/// When the database is not marked as built, or has rows of others; nothing is taken away then.
pub async fn run(
    conn: &mut PgConnection,
    locked: &mut Locked,
    ask: &upkeep::Ask,
    with_all: bool,
) -> anyhow::Result<usize> {
    if state::find(conn).await?.is_none() {
        bail!("this database was not filled by `loadtest build`: nothing of it is dropped");
    }
    let strangers = strangers(conn).await?;
    if !with_all && !strangers.is_empty() {
        let some = strangers.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
        bail!("there are rows that `loadtest build` did not make ({some}): to drop them as well, say --with-all");
    }
    let done = state::done(conn).await?;
    let mut dropped = 0;
    for plan in plans().iter() {
        let mut leaves: Vec<Leaf> = done.keys().filter_map(|name| plan.leaf_of_name(name)).collect();
        if with_all || plan.table == super::stock::TABLE {
            leaves.extend(attached(conn, plan).await?.into_iter().filter_map(|attached| attached.leaf));
        }
        leaves.sort();
        leaves.dedup();
        for leaf in leaves {
            let statement = format!("drop table if exists {leaf} cascade");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *conn).await.with_context(|| leaf.to_string())?;
            dropped += 1;
        }
    }
    sqlx::raw_sql("begin").execute(&mut *conn).await?;
    if with_all {
        sqlx::raw_sql("delete from job; delete from redemption_late").execute(&mut *conn).await?;
    }
    sqlx::raw_sql("update region set parent_id = null").execute(&mut *conn).await?;
    for (table, which) in OFFICE {
        let statement = format!("delete from {table} where {which}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *conn).await.with_context(|| table.to_owned())?;
    }
    sqlx::raw_sql("drop schema loadtest cascade; commit").execute(&mut *conn).await?;
    upkeep::run(locked, plans(), ask).await?;
    Ok(dropped)
}
