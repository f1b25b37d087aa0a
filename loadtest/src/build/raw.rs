//! What the build is compared with: the same rows, ready-made in a file, by binary `COPY … FREEZE` into a table without keys
//! that then gets its keys, and nothing else. As many at a time as the build had.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    fill::Site,
    leaf,
    source::{SOURCES, Source},
    state::Done,
};
use tessera::partition::plan;

use crate::dataset::BuildRate;

/// Of a leaf, at most so many rows.
const ROWS_MAX: u64 = 1_000_000;
const SEND_BYTES: usize = 128 << 10;

/// Seconds by table that a row takes raw, with all cores busy.
pub struct Measured {
    by_table: BTreeMap<&'static str, (u64, f64)>,
    /// Of all rows of the dataset.
    secs: f64,
}

struct Sample {
    source: Source,
    file: std::fs::File,
    rows: u64,
}

/// Measures a leaf of each table.
///
/// # Errors
/// The database's, and those of the temporary files.
pub async fn measure(
    site: &Arc<Site>,
    conn: &mut PgConnection,
    done: &BTreeMap<String, Done>,
    at_once: usize,
) -> anyhow::Result<Measured> {
    let mut samples = Vec::new();
    for source in SOURCES {
        let mut leaves: Vec<_> =
            done.iter().filter(|(_, leaf)| leaf.table == source.table() && leaf.rows > 0).collect();
        leaves.sort_by_key(|(_, leaf)| leaf.rows);
        let Some((name, leaf)) = leaves.get(leaves.len() / 2) else { continue };
        samples.push(take(conn, source, name, leaf.rows.min(ROWS_MAX)).await?);
    }
    let (mut waiting, mut running) = (samples.into_iter(), tokio::task::JoinSet::new());
    let mut by_table = BTreeMap::new();
    loop {
        while running.len() < at_once
            && let Some(sample) = waiting.next()
        {
            let site = Arc::clone(site);
            running
                .spawn(async move { Ok::<_, anyhow::Error>((sample.source, sample.rows, time(&site, sample).await?)) });
        }
        let Some(timed) = running.join_next().await else { break };
        let (source, rows, took) = timed??;
        by_table.insert(source.table(), (rows, took.as_secs_f64() / rows as f64));
    }
    let secs = done.values().filter_map(|leaf| Some(by_table.get(leaf.table.as_str())?.1 * leaf.rows as f64));
    let secs = secs.sum::<f64>() / at_once as f64;
    Ok(Measured { by_table, secs })
}

/// Writes rows of a leaf to a file that has no name.
async fn take(conn: &mut PgConnection, source: Source, leaf: &str, rows: u64) -> anyhow::Result<Sample> {
    let path = std::env::temp_dir().join(format!("loadtest-raw-{}-{leaf}", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("{} cannot be made", path.display()))?;
    std::fs::remove_file(&path)?;
    let columns = source.columns().join(", ");
    let statement = format!("copy (select {columns} from {leaf} limit {rows}) to stdout with (format binary)");
    let mut copy = conn.copy_out_raw(&statement).await?;
    while let Some(bytes) = copy.try_next().await? {
        file.write_all(&bytes)?;
    }
    std::io::Seek::rewind(&mut file)?;
    Ok(Sample { source, file, rows })
}

async fn time(site: &Site, mut sample: Sample) -> anyhow::Result<Duration> {
    let (source, name) = (sample.source, format!("loadtest.raw_{}", sample.source.table()));
    let keys = site.keys.get(source.table()).context("the keys of all tables are known")?;
    let mut conn = leaf::connect(&site.owner, &site.settings).await?;
    // One may be left of a measurement that was killed.
    let drop = format!("drop table if exists {name}");
    let begin =
        format!("{drop}; begin; {}; set local search_path = loadtest, public", leaf::make(plan(source.table()), &name));
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut conn).await?;
    let started = Instant::now();
    let columns = source.columns().join(", ");
    let mut copy =
        conn.copy_in_raw(&format!("copy {name} ({columns}) from stdin with (format binary, freeze)")).await?;
    let mut buffer = vec![0; SEND_BYTES];
    loop {
        let read = sample.file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        copy.send(&buffer[..read]).await?;
    }
    copy.finish().await?;
    for statement in keys.statements(&format!("raw_{}", source.table())) {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut conn).await?;
    }
    // As durable as a leaf that is built.
    sqlx::raw_sql("commit").execute(&mut conn).await?;
    let took = started.elapsed();
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut conn).await?;
    conn.close().await?;
    Ok(took)
}

impl Measured {
    pub fn rate(&self, rows: u64, built_secs: f64) -> BuildRate {
        BuildRate { built: rows as f64 / built_secs, raw: rows as f64 / self.secs }
    }

    pub fn render(&self, rows: u64, built_secs: f64) -> String {
        let mut text = String::from("raw COPY FREEZE and keys, by table:\n");
        for (table, (rows, secs)) in &self.by_table {
            text += &format!("{table:22} {:>6.2} µs a row and core ({rows} rows)\n", secs * 1e6);
        }
        let BuildRate { built, raw } = self.rate(rows, built_secs);
        text + &format!("raw {raw:.0} rows/s, built {built:.0} rows/s: ratio {:.2}, goal 0.80", built / raw)
    }
}
