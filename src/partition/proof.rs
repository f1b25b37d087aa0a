//! The proof: each query run through the parent with a real key, and what it really touched held against its claim.
//!
//! A query runs under `explain (analyze, buffers)` in a transaction that is rolled back, with the lane's settings and a
//! plan made for this key. A leaf counts when a scan of it was executed (loops > 0) or when a row of it was written:
//! writes are read from the transaction's own counters of PostgreSQL, since the plan of a routed insert names only the
//! parent. So nothing has to be changed in a statement to prove it. What is printed (leaves, buffers, time) is meant to be
//! the same at a thousand and at a hundred million rows; the time is of one execution and only an indication.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::NaiveDate;
use serde_json::Value;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Column, Row, TypeInfo, ValueRef};
use uuid::Uuid;

use super::plan::{Encoding, Plan, plans};
use super::query::{Claim, Query};
use super::router::Leaf;

/// As the lane has them, but a plan for this one key, so that pruning at planning time counts too.
const SETTINGS: &str = "set local plan_cache_mode = force_custom_plan; set local enable_seqscan = off; \
                        set local enable_hashjoin = off; set local enable_mergejoin = off; set local jit = off";
const STATEMENT: &str = "tessera_proof";

#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// The outcome for every query.
#[derive(Debug, Default)]
pub struct Report {
    pub rows: Vec<Proven>,
}

/// What one query did.
#[derive(Debug, Default, Clone)]
pub struct Proven {
    pub query: String,
    /// By table, the leaves that were executed.
    pub leaves: BTreeMap<String, BTreeSet<String>>,
    /// By table, as claimed.
    pub claims: BTreeMap<String, Claim>,
    /// Of shared buffers, hit and read, in execution.
    pub buffers: u64,
    pub time_ms: f64,
    /// Kinds of plan nodes that were executed, with the leaf where there is one.
    pub nodes: Vec<String>,
    /// Empty when the claim holds.
    pub failures: Vec<String>,
}

impl Report {
    pub fn ok(&self) -> bool {
        self.rows.iter().all(Proven::ok)
    }

    /// A table for people: one line a query, its failures below it.
    pub fn render(&self) -> String {
        let width = self.rows.iter().map(|row| row.query.len()).max().unwrap_or(0).max(5);
        let leaves: Vec<String> = self.rows.iter().map(Proven::leaves_text).collect();
        let leaves_width = leaves.iter().map(String::len).max().unwrap_or(0).max(6);
        let mut text =
            format!("{:width$}  {:leaves_width$}  {:>7}  {:>8}  verdict\n", "query", "leaves", "buffers", "ms");
        for (row, leaves) in self.rows.iter().zip(&leaves) {
            let verdict = if row.ok() { "ok" } else { "FAILED" };
            let (query, buffers, time) = (&row.query, row.buffers, row.time_ms);
            writeln!(text, "{query:width$}  {leaves:leaves_width$}  {buffers:>7}  {time:>8.3}  {verdict}")
                .expect("writing to a String does not fail");
            for failure in &row.failures {
                writeln!(text, "{:width$}  {failure}", "").expect("writing to a String does not fail");
            }
        }
        let failed = self.rows.iter().filter(|row| !row.ok()).count();
        writeln!(text, "{} queries, {failed} failed", self.rows.len()).expect("writing to a String does not fail");
        text
    }
}

impl Report {
    /// The same for programs: an array with an object for each query, in the order of the table.
    pub fn json(&self) -> Value {
        let one = |row: &Proven| {
            serde_json::json!({
                "query": row.query,
                "leaves": row.leaves_text(),
                "executed": row.leaves.values().map(BTreeSet::len).sum::<usize>(),
                "buffers": row.buffers,
                "ms": row.time_ms,
                "ok": row.ok(),
                "failures": row.failures,
            })
        };
        self.rows.iter().map(one).collect()
    }
}

impl Proven {
    pub fn ok(&self) -> bool {
        self.failures.is_empty()
    }

    /// `coupon=1 redemption=3/all`: executed, and the claim where it is another.
    fn leaves_text(&self) -> String {
        let one = |(table, claim): (&String, &Claim)| {
            let count = self.leaves.get(table).map_or(0, BTreeSet::len);
            if *claim == Claim::Leaves(count as u32) {
                format!("{table}={count}")
            } else {
                format!("{table}={count}/{claim}")
            }
        };
        self.claims.iter().map(one).collect::<Vec<_>>().join(" ")
    }
}

/// Proves each query that touches partitioned tables; `sink` sees each outcome as it comes.
///
/// The connection may be of any role that can read and write; nothing that is done on it stays.
///
/// # Errors
/// When the connection fails. What a query does wrong stands in the report.
pub async fn run<'a>(
    conn: &mut PgConnection,
    queries: impl Iterator<Item = &'a Query>,
    mut sink: impl FnMut(&Proven),
) -> Result<Report, ProofError> {
    let parents = parents(conn).await?;
    let mut report = Report::default();
    for query in queries.filter(|query| !query.touches.is_empty()) {
        let mut row = Proven { query: query.name.clone(), ..Proven::default() };
        row.claims = query.touches.iter().map(|touch| (touch.plan.table.clone(), touch.claim.clone())).collect();
        match prove(conn, query, &parents, &mut row).await {
            Ok(()) => {}
            Err(error) => match error.as_database_error() {
                Some(refused) => row.failures.push(format!("PostgreSQL refuses it: {refused}")),
                None => return Err(error.into()),
            },
        }
        sink(&row);
        report.rows.push(row);
    }
    Ok(report)
}

/// Leaf → its plan's table, for every partition there is.
async fn parents(conn: &mut PgConnection) -> Result<BTreeMap<String, String>, sqlx::Error> {
    let tables: Vec<String> = plans().iter().map(|plan| plan.table.clone()).collect();
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select c.relname::text, p.relname::text
         from pg_inherits i join pg_class c on c.oid = i.inhrelid join pg_class p on p.oid = i.inhparent
         where i.inhparent in (select to_regclass(t) from unnest($1::text[]) t)",
    )
    .bind(tables)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

/// One column of a sample: its type and its value as text.
struct Parameter {
    kind: String,
    text: Option<String>,
}

async fn prove(
    conn: &mut PgConnection,
    query: &Query,
    parents: &BTreeMap<String, String>,
    row: &mut Proven,
) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(format!("begin; {}", query.given.as_deref().unwrap_or_default())))
        .execute(&mut *conn)
        .await?;
    let Some(parameters) = sample(conn, query).await? else {
        row.failures.push("the sample finds no row".to_owned());
        sqlx::raw_sql("rollback").execute(&mut *conn).await?;
        return Ok(());
    };
    let outcome = execute(conn, query, &parameters).await;
    // Whatever happened: the transaction is rolled back and the statement, which outlives it, is gone.
    sqlx::raw_sql("rollback").execute(&mut *conn).await?;
    let end = format!("deallocate {STATEMENT}");
    if outcome.is_ok() {
        sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut *conn).await?;
    } else {
        // It exists only when its preparation succeeded.
        sqlx::raw_sql(AssertSqlSafe(end)).execute(&mut *conn).await.ok();
    }
    let (explained, written) = outcome?;
    judge(query, parents, &parameters, &explained, &written, row);
    Ok(())
}

async fn sample(conn: &mut PgConnection, query: &Query) -> Result<Option<Vec<Parameter>>, sqlx::Error> {
    let Some(text) = &query.sample else { return Ok(None) };
    // The simple protocol gives every value as text, whatever its type.
    let row = sqlx::raw_sql(AssertSqlSafe(text.as_str())).fetch_optional(conn).await?;
    row.map(|row| parameters(&row)).transpose()
}

fn parameters(row: &PgRow) -> Result<Vec<Parameter>, sqlx::Error> {
    (0..row.len())
        .map(|at| {
            let value = row.try_get_raw(at)?;
            let kind = row.column(at).type_info().name().to_owned();
            let text =
                if value.is_null() { None } else { Some(value.as_str().map_err(sqlx::Error::Decode)?.to_owned()) };
            Ok(Parameter { kind, text })
        })
        .collect()
}

/// Runs the query in a transaction that stays open; gives the plan and the rows written by relation.
async fn execute(
    conn: &mut PgConnection,
    query: &Query,
    parameters: &[Parameter],
) -> Result<(Value, BTreeMap<String, i64>), sqlx::Error> {
    let literals: Vec<_> = parameters.iter().map(|parameter| literal(parameter.text.as_deref())).collect();
    let arguments = if literals.is_empty() { String::new() } else { format!("({})", literals.join(", ")) };
    sqlx::raw_sql(AssertSqlSafe(SETTINGS.to_owned())).execute(&mut *conn).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("prepare {STATEMENT} as {}", query.parent()))).execute(&mut *conn).await?;
    let before = written(conn).await?;
    let explain = format!("explain (analyze, buffers, format json) execute {STATEMENT}{arguments}");
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *conn).await?;
    let text = row.try_get_raw(0)?.as_str().map_err(sqlx::Error::Decode)?.to_owned();
    let explained = serde_json::from_str(&text).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let mut after = written(conn).await?;
    for (relation, count) in before {
        *after.entry(relation).or_default() -= count;
    }
    after.retain(|_, count| *count > 0);
    Ok((explained, after))
}

/// Rows inserted, updated and deleted by relation, as counted for this session and not yet reported.
async fn written(conn: &mut PgConnection) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "select relname::text, n_tup_ins + n_tup_upd + n_tup_del from pg_stat_xact_user_tables
         where n_tup_ins + n_tup_upd + n_tup_del > 0",
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().collect())
}

fn literal(text: Option<&str>) -> String {
    text.map_or_else(|| "null".to_owned(), |text| format!("'{}'", text.replace('\'', "''")))
}

/// What the executed nodes of a plan say.
#[derive(Default)]
struct Executed {
    /// (table, leaf)
    leaves: BTreeSet<(String, String)>,
    /// Read by a sequential scan.
    scanned_whole: BTreeSet<String>,
    /// Read through an index from one end to the other: what a missing predicate looks like without sequential scans.
    walked_whole: BTreeSet<(String, String)>,
    rows: f64,
    nodes: Vec<String>,
}

fn judge(
    query: &Query,
    parents: &BTreeMap<String, String>,
    parameters: &[Parameter],
    explained: &Value,
    written: &BTreeMap<String, i64>,
    row: &mut Proven,
) {
    let root = &explained[0]["Plan"];
    let mut executed = Executed::default();
    visit(root, parents, &mut executed);
    let blocks = |name: &str| root[name].as_u64().unwrap_or(0);
    row.buffers = blocks("Shared Hit Blocks") + blocks("Shared Read Blocks");
    row.time_ms = explained[0]["Execution Time"].as_f64().unwrap_or(0.0);
    row.nodes = executed.nodes;
    let mut rows = executed.rows;
    for (relation, count) in written {
        if let Some(table) = parents.get(relation) {
            executed.leaves.insert((table.clone(), relation.clone()));
            rows += *count as f64;
        }
    }
    for (table, leaf) in executed.leaves {
        row.leaves.entry(table).or_default().insert(leaf);
    }
    let failures = &mut row.failures;
    failures.extend(executed.scanned_whole.iter().map(|leaf| format!("{leaf} is read as a whole")));
    let wide = |table: &String| matches!(row.claims.get(table), Some(Claim::All { .. }));
    for (_, leaf) in executed.walked_whole.iter().filter(|(table, _)| !wide(table)) {
        failures.push(format!("{leaf} is read as a whole, through an index without a condition"));
    }
    if rows == 0.0 {
        failures.push("nothing is found or written with the sample's key".to_owned());
    }
    for table in row.leaves.keys().filter(|table| !row.claims.contains_key(*table)) {
        failures.push(format!("{table} is touched, and the claim does not name it"));
    }
    let none = BTreeSet::new();
    for touch in &query.touches {
        let table = &touch.plan.table;
        let leaves = row.leaves.get(table).unwrap_or(&none);
        match touch.claim {
            _ if leaves.is_empty() => failures.push(format!("{table} is claimed, and none of its leaves is executed")),
            Claim::Leaves(claimed) if leaves.len() > claimed as usize => {
                let some: Vec<_> = leaves.iter().take(4).map(String::as_str).collect();
                failures.push(format!(
                    "{} leaves of {table} instead of {claimed}: {} …",
                    leaves.len(),
                    some.join(", ")
                ));
            }
            _ => {}
        }
        match (query.route(table), &touch.claim) {
            (None, Claim::Leaves(1)) => {
                failures.push(format!("no route says which parameter is the key of {table}"));
            }
            (None, _) => {}
            (Some(parameter), _) => failures.extend(disagreement(touch.plan, parameter, parameters, leaves)),
        }
    }
}

fn visit(node: &Value, parents: &BTreeMap<String, String>, executed: &mut Executed) {
    let text = |name: &str| node[name].as_str().unwrap_or_default();
    let loops = node["Actual Loops"].as_f64().unwrap_or(0.0);
    let (kind, relation) = (text("Node Type"), text("Relation Name"));
    if loops > 0.0 {
        executed.nodes.push(if relation.is_empty() { kind.to_owned() } else { format!("{kind} on {relation}") });
        // The target of a ModifyTable is counted by what was written.
        if let Some(table) = parents.get(relation).filter(|_| kind.ends_with("Scan")) {
            executed.leaves.insert((table.clone(), relation.to_owned()));
            executed.rows += node["Actual Rows"].as_f64().unwrap_or(0.0) * loops;
            if kind == "Seq Scan" || kind == "Sample Scan" {
                executed.scanned_whole.insert(relation.to_owned());
            } else if !bounded(node) {
                executed.walked_whole.insert((table.clone(), relation.to_owned()));
            }
        }
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        visit(child, parents, executed);
    }
}

/// Whether a scan by index has a condition for the index.
fn bounded(node: &Value) -> bool {
    match node["Node Type"].as_str().unwrap_or_default() {
        "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => node.get("Index Cond").is_some(),
        "Bitmap Heap Scan" | "BitmapAnd" | "BitmapOr" => node["Plans"].as_array().into_iter().flatten().all(bounded),
        _ => true,
    }
}

/// What is wrong between the router's leaf for a parameter and those that were executed.
fn disagreement(
    plan: &'static Plan,
    parameter: usize,
    parameters: &[Parameter],
    leaves: &BTreeSet<String>,
) -> Option<String> {
    let table = &plan.table;
    let Some(given) = parameters.get(parameter - 1) else {
        return Some(format!("the route of {table} is ${parameter}, and the sample has {} columns", parameters.len()));
    };
    let Some(leaf) = routed(plan, given) else {
        let text = given.text.as_deref().unwrap_or("null");
        return Some(format!("${parameter} = {text} ({}) is no key of {table}", given.kind));
    };
    if leaves.is_empty() || leaves.contains(&leaf.to_string()) {
        return None;
    }
    Some(format!("the router says {leaf}, and PostgreSQL {}", leaves.iter().cloned().collect::<Vec<_>>().join(", ")))
}

/// The leaf of a parameter, or of the first element of an array.
fn routed(plan: &'static Plan, parameter: &Parameter) -> Option<Leaf> {
    let text = parameter.text.as_deref()?;
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let first = text.split(',').next()?.trim_matches('"');
    match (parameter.kind.trim_end_matches("[]"), plan.range().map(|range| range.encoding)) {
        ("INT8" | "INT4" | "INT2", None | Some(Encoding::Day41)) => Some(plan.leaf_i64(first.parse().ok()?)),
        ("UUID", None) => Some(plan.leaf_uuid(first.parse::<Uuid>().ok()?)),
        ("DATE", Some(Encoding::Date)) => Some(plan.leaf_date(first.parse::<NaiveDate>().ok()?)),
        _ => None,
    }
}
