//! `loadtest drop`: takes away what a build made, and nothing else.
//!
//! A leaf goes together with the record that it was built, and the office with the mark of the dataset. So a drop that was
//! killed or met an error is a dataset that is built in part: it can be dropped again, and no build takes it for whole.

use anyhow::{Context as _, bail};
use sqlx::{AssertSqlSafe, PgConnection};
use tessera::partition::{Leaf, Locked, attached, plans, upkeep};

use super::{leaf, office, state, stock};
use crate::dataset::{Dataset, store_id};

/// Tables of the office that a build fills, those that refer to others first; and a condition for what is not its own.
const OFFICE: [(&str, &str); 7] = [
    ("api_key", "name like 'loadtest-%' or store_no is not null"),
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
    let shape = state::find(conn).await?.map(|(shape, _)| shape);
    let marked = shape.is_some();
    let done = if marked { state::done(conn).await? } else { Default::default() };
    let mut found = Vec::new();
    for plan in plans().iter() {
        for other in attached(conn, plan).await? {
            let name = &other.name;
            match done.get(name) {
                None if plan.table == stock::TABLE && marked => {}
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
    if let Some(shape) = &shape {
        found.extend(office_strangers(conn, &Dataset::new(shape)).await?);
    }
    // Without a mark, nothing in the office is a build's.
    for table in ["store", "region", "coupon_rule", "legacy_code_shape"] {
        if !marked && leaf::has_rows(conn, table).await? {
            found.push(format!("{table} has rows"));
        }
    }
    Ok(found)
}

/// Rows of the office that were made since, and would go with those of the build or keep them from going.
async fn office_strangers(conn: &mut PgConnection, dataset: &Dataset) -> anyhow::Result<Vec<String>> {
    let stores: Vec<String> = (1..=dataset.shape.stores).map(store_id).collect();
    let regions: Vec<String> = office::regions().into_iter().map(|(region, _)| region).collect();
    let registers: Vec<String> = (1..=office::REGISTERS).map(|register| register.to_string()).collect();
    let rules: Vec<String> = dataset.rules.iter().map(|rule| rule.rule_id.to_string()).collect();
    let mut found = Vec::new();
    for (table, other, known) in [
        ("store", "store_id <> all($1)", &stores),
        ("region", "region_id <> all($1)", &regions),
        ("register", "register <> all($1)", &registers),
        ("coupon_rule", "rule_id::text <> all($1)", &rules),
        ("coupon_rule_version", "version > 1 and rule_id::text = any($1)", &rules),
        ("api_key", "name not like 'loadtest-%' and store_no is not null and $1::text[] is not null", &stores),
    ] {
        let statement = format!("select count(*) from {table} where {other}");
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(statement)).bind(known).fetch_one(&mut *conn).await?;
        if rows > 0 {
            found.push(format!("{table} has {rows} rows that were not built"));
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
    let (mut dropped, mut stocks) = (0, Vec::new());
    for plan in plans().iter() {
        let mut leaves: Vec<Leaf> = done.keys().filter_map(|name| plan.leaf_of_name(name)).collect();
        if with_all || plan.table == stock::TABLE {
            leaves.extend(attached(conn, plan).await?.into_iter().filter_map(|attached| attached.leaf));
        }
        leaves.sort();
        leaves.dedup();
        dropped += leaves.len();
        if plan.table == stock::TABLE {
            stocks = leaves;
            continue;
        }
        for leaf in leaves {
            // One message to the server, which is one transaction.
            let statement =
                format!("drop table if exists {leaf} cascade; delete from loadtest.leaf where leaf = '{leaf}'");
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *conn).await.with_context(|| leaf.to_string())?;
        }
    }
    rest(conn, &stocks, with_all).await?;
    upkeep::run(locked, plans(), ask).await?;
    Ok(dropped)
}

/// The counts of rules, which are one piece of work for a build, the office, and the mark, in one transaction.
async fn rest(conn: &mut PgConnection, stocks: &[Leaf], with_all: bool) -> anyhow::Result<()> {
    sqlx::raw_sql("begin").execute(&mut *conn).await?;
    for leaf in stocks {
        let statement = format!("drop table if exists {leaf} cascade");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *conn).await.with_context(|| leaf.to_string())?;
    }
    if with_all {
        sqlx::raw_sql("delete from job; delete from redemption_late").execute(&mut *conn).await?;
    }
    sqlx::raw_sql("update region set parent_id = null").execute(&mut *conn).await?;
    for (table, which) in OFFICE {
        let statement = format!("delete from {table} where {which}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *conn).await.with_context(|| table.to_owned())?;
    }
    sqlx::raw_sql("drop schema loadtest cascade; commit").execute(&mut *conn).await?;
    Ok(())
}
