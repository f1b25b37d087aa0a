//! Leaves as tables of their own: made without keys, filled by `COPY … FREEZE`, given their keys, recorded as done, all in
//! one transaction; then attached. So a leaf is there whole or not at all, and a build that was killed goes on with the next.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tessera::partition::{Leaf, Plan, plan};

/// What a leaf has to have besides its columns, by its parent.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// `PRIMARY KEY (…)`
    primary: String,
    /// Whether unique, the parent's name less the table's, and what comes after `USING`.
    others: Vec<(bool, String, String)>,
}

/// Connects as the role that owns the tables.
///
/// # Errors
/// The database's.
pub async fn connect(owner: &PgConnectOptions, settings: &str) -> anyhow::Result<PgConnection> {
    let mut conn = owner.clone().application_name("loadtest build").disable_statement_logging().connect().await?;
    let become_owner: Option<String> = sqlx::query_scalar(
        "select 'set role ' || quote_ident(pg_get_userbyid(relowner)) from pg_class
         where oid = to_regclass('member') and pg_get_userbyid(relowner) <> current_user",
    )
    .fetch_optional(&mut conn)
    .await?;
    let statement = format!("{}; set client_min_messages = warning; {settings}", become_owner.unwrap_or_default());
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await?;
    Ok(conn)
}

/// The keys of a table's leaves, as its migrations say.
///
/// # Errors
/// The database's.
pub async fn keys(conn: &mut PgConnection, table: &str) -> anyhow::Result<Keys> {
    let rows = sqlx::query(
        "select x.relname::text as name, i.indisunique as uniq, pg_get_indexdef(i.indexrelid) as definition,
             (select pg_get_constraintdef(k.oid) from pg_constraint k
              where k.conindid = i.indexrelid and k.contype = 'p') as primary
         from pg_index i join pg_class x on x.oid = i.indexrelid
         where i.indrelid = to_regclass($1) order by x.relname",
    )
    .bind(table)
    .fetch_all(conn)
    .await?;
    let mut keys = Keys::default();
    for row in rows {
        if let Some(primary) = row.try_get::<Option<String>, _>("primary")? {
            keys.primary = primary;
            continue;
        }
        let (name, definition): (String, String) = (row.try_get("name")?, row.try_get("definition")?);
        let using = definition.split_once(" USING ").context("an index has a method")?.1.to_owned();
        let suffix = name.strip_prefix(table).and_then(|rest| rest.strip_prefix('_')).unwrap_or(&name).to_owned();
        keys.others.push((row.try_get("uniq")?, suffix, using));
    }
    ensure!(!keys.primary.is_empty(), "{table} has no primary key: is the schema migrated?");
    Ok(keys)
}

impl Keys {
    /// The statements that give them to a table of this name.
    pub fn statements(&self, name: &str) -> Vec<String> {
        let others = self.others.iter().map(|(unique, suffix, using)| {
            let unique = if *unique { "unique " } else { "" };
            format!("create {unique}index {name}_{suffix} on {name} using {using}")
        });
        std::iter::once(format!("alter table {name} add constraint {name}_pkey {}", self.primary))
            .chain(others)
            .collect()
    }
}

/// The statement that makes a table like the leaves of a plan, without keys.
pub fn make(plan: &Plan, name: &str) -> String {
    let options: Vec<_> = plan.storage.iter().map(|(option, value)| format!("{option} = {value}")).collect();
    let with = if options.is_empty() { String::new() } else { format!(" with ({})", options.join(", ")) };
    let table = &plan.table;
    format!("create table {name} (like {table} including all excluding indexes excluding identity){with}")
}

/// What a leaf is when a build begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Absent,
    /// Attached; whether it has rows.
    Attached(bool),
    /// A table of that name which is no partition.
    Apart,
}

/// What the leaves of a table are.
///
/// # Errors
/// The database's.
pub async fn standings(conn: &mut PgConnection, leaves: &[Leaf]) -> anyhow::Result<BTreeMap<Leaf, Standing>> {
    let names: Vec<String> = leaves.iter().map(Leaf::to_string).collect();
    let rows: Vec<(String, bool)> = sqlx::query_as(
        "select c.relname::text, c.relispartition from pg_class c join unnest($1::text[]) n on c.oid = to_regclass(n)",
    )
    .bind(&names)
    .fetch_all(&mut *conn)
    .await?;
    let found: BTreeMap<String, bool> = rows.into_iter().collect();
    let mut standings = BTreeMap::new();
    for (leaf, name) in leaves.iter().zip(&names) {
        let standing = match found.get(name) {
            None => Standing::Absent,
            Some(false) => Standing::Apart,
            Some(true) => Standing::Attached(has_rows(conn, name).await?),
        };
        standings.insert(*leaf, standing);
    }
    Ok(standings)
}

/// Whether a table has a row. The name is ours.
///
/// # Errors
/// The database's.
pub async fn has_rows(conn: &mut PgConnection, name: &str) -> anyhow::Result<bool> {
    let statement = format!("select exists (select from {name})");
    Ok(sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(conn).await?)
}

/// Takes an empty leaf away, so that one with rows can come in its place. Foreign keys to it go with it; upkeep makes them
/// again.
///
/// # Errors
/// The database's.
pub async fn take_away(conn: &mut PgConnection, leaf: Leaf) -> anyhow::Result<()> {
    let parent = &plan(&leaf.plan.table).table;
    let statement = format!("alter table {parent} detach partition {leaf}; drop table {leaf} cascade");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(conn).await?;
    Ok(())
}
