//! `tessera verify`: each base table compared with its index tables, both ways, while tills run.
//!
//! - A pair is walked leaf by leaf in key order, in chunks. A chunk is read and compared in one REPEATABLE READ snapshot:
//!   one folded xxh3 digest over the rows that should be there and one over those that are. Only where the two differ is
//!   it looked at row by row.
//! - What differs is a suspicion. It is looked at again, exactly and in a new snapshot, after every transaction that was
//!   in flight has ended (or a bound has passed), and is reported only if it differs each time.
//! - Months that are being retired are passed over, and the report says so.
//! - `--repair` locks, looks again and writes, one row a transaction. The base decides over its index, the ledger over
//!   the coupon, rows over their counts. An index row is taken away only where its base, locked, does not have it.
//!   Ledger rows are never made: what the ledger can't tell is reported and left.
//! - With `--sample` a share of every leaf is looked at, both ways. The report says how much, and names what was not
//!   checked. It is not repaired: a count would be set by rows that nobody compared.
//!
//! Memory is bounded by the chunk (by ten of them between coupons and ledger) and by `differences_max` a pair, some 50 MB
//! as it is set, for each job. A run has connections of its own, one for each job, as the service role; it goes neither
//! through the lane nor through the office. Not compared: `request`, `event`, and `coupon.cycles`.

mod conflict;
mod count;
mod leaves;
mod ledger;
mod member_key;
mod pair;
mod part;
mod projection;
mod report;
mod row;
mod sample;
#[cfg(test)]
mod tests;
mod walker;

use std::{collections::HashMap, sync::Arc, time::Instant};

use sqlx::{Connection, postgres::PgConnectOptions};
use tokio::task::JoinSet;

pub use report::{Difference, Kind, Looked, PairReport, Repair, Report, Unit};
pub use row::{Key, Value};
pub use sample::{BadShare, Sample, Share};

use crate::{
    db::{
        sqlstate,
        tx::{self, Mode},
    },
    partition::plans,
    secret::{SecretFileError, Secrets},
};
use pair::{Direction, Found, PAIRS, Pair, Subject};
use walker::{LOOK_AGAIN_ROWS, Walker, Walks};

const CHUNK_ROWS_MAX: u32 = 100_000;

/// What to compare and how hard to work beside the tills.
#[derive(Debug, Clone, clap::Args)]
pub struct VerifySettings {
    /// Write what the base tables say where index tables differ.
    #[arg(long)]
    pub repair: bool,
    /// Look at this share of every leaf of every pair only, such as `1%` or `0.01`: of its pages, both ways, and of the rules
    /// that are counted. What is not checked is named.
    #[arg(long, value_name = "SHARE", conflicts_with = "repair")]
    pub sample: Option<Share>,
    /// Draw the sample by this number, to look at the same pages again. One is drawn, and printed, unless given.
    #[arg(long, requires = "sample", value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Only pairs with one of these tables, by comma.
    #[arg(long, value_delimiter = ',', value_name = "TABLE")]
    pub tables: Vec<String>,
    /// Rows of one chunk, read in one snapshot.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=CHUNK_ROWS_MAX as i64))]
    pub chunk_rows: u32,
    /// Leaves that are walked at a time, each on a connection of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Rows walked in a second at most, by all jobs together; 0 is as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub rows_per_second: u32,
    /// How often a difference is looked at again before it is reported.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub looks: u32,
    /// How long to wait for transactions in flight before each look, in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    pub settle_max_ms: u64,
    /// A pair with more differences is left, unrepaired: so many speak of a lost key or table, not of lost rows.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub differences_max: u32,
}

impl Default for VerifySettings {
    fn default() -> Self {
        Self {
            repair: false,
            sample: None,
            seed: None,
            tables: Vec::new(),
            chunk_rows: 2_000,
            jobs: 1,
            rows_per_second: 0,
            looks: 3,
            settle_max_ms: 2_000,
            differences_max: 10_000,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("a transaction failed")]
    Transaction(#[from] tx::Error),
    #[error(transparent)]
    Secrets(#[from] SecretFileError),
    #[error("no pair of tables has {0}")]
    UnknownTable(String),
    #[error(
        "a sample can't be repaired, since counts would be set by rows that were not compared: repair in a whole run"
    )]
    SampleRepaired,
}

/// Compares, and repairs when asked to; `sink` sees each pair as it is done.
///
/// # Errors
/// [`VerifyError`] when the database fails or a table is unknown. What differs stands in the report.
pub async fn run(
    settings: &VerifySettings,
    options: PgConnectOptions,
    secrets: impl Into<Arc<Secrets>>,
    mut sink: impl FnMut(&PairReport),
) -> Result<Report, VerifyError> {
    let known = |table: &&String| PAIRS.iter().any(|pair| pair.tables().contains(&table.as_str()));
    if let Some(unknown) = settings.tables.iter().find(|table| !known(table)) {
        return Err(VerifyError::UnknownTable(unknown.clone()));
    }
    if settings.sample.is_some() && settings.repair {
        return Err(VerifyError::SampleRepaired);
    }
    let sample = settings.sample.map(|share| Sample { share, seed: settings.seed.unwrap_or_default() });
    let (shared, secrets) = (Arc::new(settings.clone()), secrets.into());
    let mut walkers = Vec::new();
    for _ in 0..settings.jobs.max(1) {
        walkers.push(Walker::connect(Arc::clone(&shared), sample, options.clone(), Arc::clone(&secrets)).await?);
    }
    // Of months that are gone there is nothing to say.
    let leaves = &walkers[0].sight.leaves;
    let skipped = plans().iter().flat_map(|plan| leaves.on_their_way(&plan.table)).map(|leaf| leaf.to_string());
    let mut report = Report { skipped: skipped.collect(), sample, ..Report::default() };
    let mut run = Run { settings, sample, walkers };
    for pair in PAIRS {
        let wanted = |table: &String| pair.tables().contains(&table.as_str());
        if !settings.tables.is_empty() && !settings.tables.iter().any(wanted) {
            continue;
        }
        let done = run.pair(pair).await?;
        sink(&done);
        report.pairs.push(done);
    }
    for walker in run.walkers {
        walker.conn.close().await?;
    }
    Ok(report)
}

struct Run<'a> {
    settings: &'a VerifySettings,
    sample: Option<Sample>,
    /// At least one.
    walkers: Vec<Walker>,
}

impl Run<'_> {
    async fn pair(&mut self, pair: Pair) -> Result<PairReport, VerifyError> {
        let started = Instant::now();
        let mut report = PairReport { name: pair.name(), ..PairReport::default() };
        report.open = self.sample.and_then(|_| pair.open_in_a_sample());
        let mut found = self.walk(pair, &mut report).await?;
        if self.settings.repair && !report.cut_short {
            self.repair(pair, &mut found).await?;
        }
        report.differences = found.into_iter().map(|found| found.difference).collect();
        report.took = started.elapsed();
        tracing::info!(
            pair = report.name,
            rows = report.rows,
            chunks = report.chunks,
            differences = report.differences.len(),
            left = report.left(),
            "compared"
        );
        Ok(report)
    }

    /// Shares the leaves of a pair out, and gives what differs in their order.
    async fn walk(&mut self, pair: Pair, report: &mut PairReport) -> Result<Vec<Found>, VerifyError> {
        let leaves = &self.walkers[0].sight.leaves;
        let of = |direction: &Direction| (leaves.standing(pair.walked(*direction)), *direction);
        let leaves = pair.directions().iter().map(of);
        let leaves = leaves.flat_map(|(leaves, direction)| leaves.into_iter().map(move |leaf| (direction, leaf)));
        let shared = Arc::new(Walks::new(leaves.collect()));
        let mut walks = JoinSet::new();
        for walker in self.walkers.drain(..) {
            walks.spawn(walker.walk(pair, Arc::clone(&shared)));
        }
        let mut parts = Vec::new();
        while let Some(walk) = walks.join_next().await {
            let (walker, walked) = walk.unwrap_or_else(|died| std::panic::resume_unwind(died.into_panic()))?;
            self.walkers.push(walker);
            parts.extend(walked);
        }
        parts.sort_unstable_by_key(|part| part.at);
        let mut finds = Finds::default();
        for part in parts {
            report.add(part.report);
            part.found.list.into_iter().for_each(|one| finds.add(one));
        }
        if report.cut_short {
            finds.list.truncate(self.settings.differences_max as usize);
        }
        Ok(finds.list)
    }

    async fn repair(&mut self, pair: Pair, found: &mut [Found]) -> Result<(), VerifyError> {
        let mut outcomes: HashMap<Subject, Repair> = HashMap::new();
        for Found { subject, difference } in found.iter() {
            if outcomes.contains_key(subject) {
                continue;
            }
            let Walker { conn, sight, .. } = &mut self.walkers[0];
            let sight = &*sight;
            let outcome = tx::run_on(conn, "verify_repair", Mode::ReadCommitted, async |conn| {
                Ok::<_, VerifyError>(pair.mend(conn, sight, subject).await?)
            })
            .await;
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(error) => Repair::Left(why_not_mended(error)?),
            };
            tracing::info!(pair = pair.name(), %difference, ?outcome, "repair");
            outcomes.insert(subject.clone(), outcome);
        }
        // Nothing counts as mended that still differs.
        let subjects: Vec<Subject> = outcomes.keys().cloned().collect();
        let mut left: Vec<Found> = Vec::new();
        for subjects in subjects.chunks(LOOK_AGAIN_ROWS) {
            left.extend(self.walkers[0].look(pair, subjects).await?.0);
        }
        for one in found {
            one.difference.repair = match outcomes.get(&one.subject) {
                _ if !left.iter().any(|left| left.difference.same_row(&one.difference)) => Repair::Mended,
                Some(Repair::Left(why)) => Repair::Left(why),
                _ => Repair::Left("it differs again: was it changed meanwhile?"),
            };
        }
        Ok(())
    }
}

/// What differs, each row once.
#[derive(Default)]
struct Finds {
    list: Vec<Found>,
    by_row: HashMap<(&'static str, Key), usize>,
}

impl Finds {
    /// That a row is altered says more than that it is extra for the base row it names by mistake.
    fn add(&mut self, one: Found) {
        let row = (one.difference.table, one.difference.key.clone());
        match self.by_row.get(&row).map(|at| &mut self.list[*at]) {
            None => {
                self.by_row.insert(row, self.list.len());
                self.list.push(one);
            }
            Some(other) if other.difference.kind == Kind::Extra && one.difference.kind == Kind::Altered => *other = one,
            Some(_) => {}
        }
    }
}

/// What stands in the way of one row's repair does not end the run; a lost connection does.
fn why_not_mended(error: VerifyError) -> Result<&'static str, VerifyError> {
    let state = tx::database_cause(&error).and_then(sqlstate);
    match state.as_deref() {
        Some("55P03") => Ok("its row stayed locked"),
        Some("40001" | "40P01") => Ok("it was in the way of other transactions"),
        Some(code) if code.starts_with("23") => Ok("a constraint refuses what the base says"),
        _ => Err(error),
    }
}
