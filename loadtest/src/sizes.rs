//! `loadtest sizes`: where the bytes are. Rows by table with what each takes in the heap, in TOAST and in each index; and,
//! of a sample, how wide each column is, beside another database if one is named.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tessera::{
    boot,
    config::DatabaseUrl,
    partition::{attached, plans},
};

use crate::build::Place;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub place: Place,
    /// Compare columns with those of a database whose rows the API made.
    #[arg(long, value_name = "URL")]
    pub beside: Option<DatabaseUrl>,
    /// Rows of each table whose columns are measured; 0 measures none.
    #[arg(long, default_value_t = 10_000)]
    pub sample: u32,
    /// Write the same as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What a table takes on disk, all leaves together.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Table {
    pub table: String,
    pub leaves: u64,
    pub rows: u64,
    pub heap_bytes: u64,
    pub toast_bytes: u64,
    /// By name of the parent's index: entries and bytes.
    pub indexes: BTreeMap<String, (u64, u64)>,
}

/// How wide the values of a column are.
#[derive(Debug, Clone, Serialize)]
pub struct Column {
    pub table: String,
    pub column: String,
    /// Of the sample's rows, the share that has a value.
    pub filled: f64,
    /// Mean width of those values.
    pub bytes: f64,
}

#[derive(Debug, Serialize)]
struct Sizes {
    tables: Vec<Table>,
    columns: Vec<Column>,
    beside: Vec<Column>,
}

/// Prints tables, and writes JSON when asked.
///
/// # Errors
/// The database's.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let ground = args.place.look().await?;
    let outcome = async {
        let mut conn = boot::connect(&ground, &args.place.settings()).await?;
        let tables = tables(&mut conn).await?;
        print!("{}", render(&tables));
        let columns = columns(&mut conn, args.sample).await?;
        boot::disconnect(conn).await;
        let beside = match &args.beside {
            Some(url) => {
                let mut conn = url.options()?.connect().await.context("the database beside cannot be reached")?;
                self::columns(&mut conn, args.sample).await?
            }
            None => Vec::new(),
        };
        if args.sample > 0 {
            print!("\n{}", render_columns(&columns, &beside));
        }
        if let Some(path) = &args.json {
            let sizes = Sizes { tables, columns, beside };
            std::fs::write(path, serde_json::to_vec_pretty(&sizes)?)
                .with_context(|| format!("{} cannot be written", path.display()))?;
        }
        Ok(())
    }
    .await;
    ground.close().await;
    outcome
}

/// What the partitioned tables take. Rows are those of the last analysis.
///
/// # Errors
/// The database's.
pub async fn tables(conn: &mut PgConnection) -> anyhow::Result<Vec<Table>> {
    let mut found = Vec::new();
    for plan in plans().iter() {
        let heap: (i64, i64, i64, i64) = sqlx::query_as(
            "select count(*), coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint,
                 coalesce(sum(pg_relation_size(c.oid)), 0)::bigint,
                 coalesce(sum(case when c.reltoastrelid <> 0 then pg_total_relation_size(c.reltoastrelid) end), 0)::bigint
             from pg_inherits h join pg_class c on c.oid = h.inhrelid where h.inhparent = to_regclass($1)",
        )
        .bind(&plan.table)
        .fetch_one(&mut *conn)
        .await?;
        let indexes: Vec<(String, i64, i64)> = sqlx::query_as(
            "select p.relname::text, coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint,
                 coalesce(sum(pg_relation_size(c.oid)), 0)::bigint
             from pg_index i join pg_class p on p.oid = i.indexrelid
                 join pg_inherits h on h.inhparent = i.indexrelid join pg_class c on c.oid = h.inhrelid
             where i.indrelid = to_regclass($1) group by p.relname",
        )
        .bind(&plan.table)
        .fetch_all(&mut *conn)
        .await?;
        let (leaves, rows, heap_bytes, toast_bytes) = heap;
        found.push(Table {
            table: plan.table.clone(),
            leaves: leaves as u64,
            rows: rows as u64,
            heap_bytes: heap_bytes as u64,
            // An empty TOAST table has an index of one page.
            toast_bytes: (toast_bytes as u64).saturating_sub(leaves as u64 * 8_192),
            indexes: indexes.into_iter().map(|(name, rows, bytes)| (name, (rows as u64, bytes as u64))).collect(),
        });
    }
    Ok(found)
}

fn per(bytes: u64, count: u64) -> String {
    if count == 0 { "–".to_owned() } else { format!("{:.1}", bytes as f64 / count as f64) }
}

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// A table in Markdown: rows of tables and, below each, of its indexes.
pub fn render(tables: &[Table]) -> String {
    let mut text = String::from("| what | rows | MiB | bytes each |\n|---|--:|--:|--:|\n");
    let mut all = 0;
    for table in tables.iter().filter(|table| table.rows > 0) {
        let whole = table.heap_bytes + table.toast_bytes + table.indexes.values().map(|(_, bytes)| bytes).sum::<u64>();
        all += whole;
        let _ =
            writeln!(text, "| **{}** | {} | {} | {} |", table.table, table.rows, mib(whole), per(whole, table.rows));
        let mut line = |name: &str, rows: u64, bytes: u64| {
            let _ = writeln!(text, "| {name} | {rows} | {} | {} |", mib(bytes), per(bytes, rows));
        };
        line("heap", table.rows, table.heap_bytes);
        if table.toast_bytes > 0 {
            line("toast", table.rows, table.toast_bytes);
        }
        for (name, (rows, bytes)) in &table.indexes {
            line(name, *rows, *bytes);
        }
    }
    let _ = writeln!(text, "| **all** | | {} | |", mib(all));
    text
}

/// How wide the columns of all tables are, of their first rows.
///
/// # Errors
/// The database's.
pub async fn columns(conn: &mut PgConnection, sample: u32) -> anyhow::Result<Vec<Column>> {
    let mut found = Vec::new();
    for plan in plans().iter().filter(|_| sample > 0) {
        let names: Vec<String> = sqlx::query_scalar(
            "select attname::text from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped
             order by attnum",
        )
        .bind(&plan.table)
        .fetch_all(&mut *conn)
        .await?;
        // Of the largest leaves, so that the sample is of rows and not of empty tables.
        let leaves = attached(conn, plan).await?;
        let mut sums = vec![(0_i64, 0_i64); names.len()];
        let mut rows = 0;
        for leaf in &leaves {
            let measures: Vec<_> = names
                .iter()
                .map(|name| format!("count({name}), coalesce(sum(pg_column_size({name})), 0)::bigint"))
                .collect();
            let share = sample.div_ceil(leaves.len() as u32);
            let statement = format!(
                "select array[count(*), {}]::bigint[] from (select * from {} limit {share}) t",
                measures.join(", "),
                leaf.name
            );
            let counted: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut *conn).await?;
            rows += counted[0];
            for (sum, pair) in sums.iter_mut().zip(counted[1..].chunks_exact(2)) {
                sum.0 += pair[0];
                sum.1 += pair[1];
            }
        }
        if rows == 0 {
            continue;
        }
        for (name, (count, bytes)) in names.into_iter().zip(sums) {
            let (filled, bytes) =
                (count as f64 / rows as f64, if count == 0 { 0.0 } else { bytes as f64 / count as f64 });
            found.push(Column { table: plan.table.clone(), column: name, filled, bytes });
        }
    }
    Ok(found)
}

/// A table in Markdown, the two databases side by side.
pub fn render_columns(columns: &[Column], beside: &[Column]) -> String {
    let mut text = String::from("| column | filled | bytes | filled beside | bytes beside |\n|---|--:|--:|--:|--:|\n");
    for one in columns {
        let other = beside.iter().find(|other| (&other.table, &other.column) == (&one.table, &one.column));
        let other = other
            .map_or_else(|| "– | –".to_owned(), |other| format!("{:.0} % | {:.1}", other.filled * 100.0, other.bytes));
        let _ = writeln!(
            text,
            "| {}.{} | {:.0} % | {:.1} | {other} |",
            one.table,
            one.column,
            one.filled * 100.0,
            one.bytes
        );
    }
    text
}
