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
//! as it is set. A run has one connection of its own, as the service role; it goes neither through the lane nor through
//! the office. Not compared: `request`, `event`, and `coupon.cycles`.

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

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

pub use report::{Difference, Kind, Looked, PairReport, Repair, Report, Unit};
pub use row::{Key, Value};
pub use sample::{BadShare, Sample, Share};

use crate::{
    db::{
        sqlstate,
        tx::{self, Mode},
    },
    partition::{Leaf, plans},
    secret::{SecretFileError, Secrets},
};
use leaves::Leaves;
use pair::{Chunk, Direction, Found, PAIRS, Pair, Sight, Subject};
use sample::{Course, Stretch};

/// Suspects that are looked at again together.
const LOOK_AGAIN_ROWS: usize = 500;
const HORIZON_POLL: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
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
    /// Rows walked in a second at most; 0 is as fast as it goes.
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
    secrets: &Secrets,
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
    let mut conn = with_settings(options).connect().await?;
    let leaves = Leaves::load(&mut conn).await?;
    // Of months that are gone there is nothing to say.
    let skipped = plans().iter().flat_map(|plan| leaves.on_their_way(&plan.table)).map(|leaf| leaf.to_string());
    let mut report = Report { skipped: skipped.collect(), sample, ..Report::default() };
    let mut run = Run { settings, sample, conn, sight: Sight { secrets, leaves } };
    for pair in PAIRS {
        let wanted = |table: &String| pair.tables().contains(&table.as_str());
        if !settings.tables.is_empty() && !settings.tables.iter().any(wanted) {
            continue;
        }
        let done = run.pair(pair).await?;
        sink(&done);
        report.pairs.push(done);
    }
    run.conn.close().await?;
    Ok(report)
}

/// By index always, as on the lane, but planned for the arrays at hand: statements here see one row and thousands.
fn with_settings(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("tessera verify").statement_cache_capacity(256).disable_statement_logging().options([
        ("plan_cache_mode", "force_custom_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "5000"),
        ("idle_in_transaction_session_timeout", "60000"),
    ])
}

struct Run<'a> {
    settings: &'a VerifySettings,
    sample: Option<Sample>,
    conn: PgConnection,
    sight: Sight<'a>,
}

/// Suspects with what their snapshot could not see the end of.
#[derive(Default)]
struct Suspicion {
    subjects: Vec<Subject>,
    /// The first transaction after all that were in flight.
    horizon: i64,
}

impl Run<'_> {
    async fn pair(&mut self, pair: Pair) -> Result<PairReport, VerifyError> {
        let started = Instant::now();
        let mut report = PairReport { name: pair.name(), ..PairReport::default() };
        let mut found: Vec<Found> = Vec::new();
        report.open = self.sample.and_then(|_| pair.open_in_a_sample());
        'walk: for direction in pair.directions() {
            for leaf in self.sight.leaves.standing(pair.walked(*direction)) {
                self.leaf(pair, *direction, leaf, &mut report, &mut found).await?;
                if found.len() > self.settings.differences_max as usize {
                    found.truncate(self.settings.differences_max as usize);
                    report.cut_short = true;
                    break 'walk;
                }
            }
        }
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

    /// Walks one leaf to its end, or along what is drawn of it.
    async fn leaf(
        &mut self,
        pair: Pair,
        direction: Direction,
        leaf: Leaf,
        report: &mut PairReport,
        found: &mut Vec<Found>,
    ) -> Result<(), VerifyError> {
        let started = Instant::now();
        let (mut told, mut walked) = (started, 0_u64);
        let mut suspicion = Suspicion::default();
        let mut course = self.course(pair, direction, leaf, report).await?;
        while let Some(stretch) = course.next() {
            let Some(chunk) = self.standing_chunk(pair, direction, leaf, &stretch, &mut suspicion).await? else {
                break;
            };
            report.rows += chunk.rows;
            report.rows_skipped += chunk.skipped;
            report.chunks += 1;
            report.chunks_differed += u64::from(chunk.differed);
            stretch.looked(pair.walked(direction)).into_iter().for_each(|looked| report.look(looked));
            walked += chunk.rows;
            if suspicion.subjects.len() >= LOOK_AGAIN_ROWS {
                self.confirm(pair, std::mem::take(&mut suspicion), report, found).await?;
            }
            if found.len() > self.settings.differences_max as usize {
                return Ok(());
            }
            course.reached(chunk.last);
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                tracing::info!(pair = pair.name(), %leaf, rows = report.rows, "comparing");
            }
            self.throttle(walked, started).await;
        }
        self.confirm(pair, suspicion, report, found).await
    }

    async fn course(
        &mut self,
        pair: Pair,
        direction: Direction,
        leaf: Leaf,
        report: &mut PairReport,
    ) -> Result<Course, VerifyError> {
        let chunk_rows = self.settings.chunk_rows;
        let Some(sample) = self.sample else { return Ok(Course::whole(chunk_rows)) };
        let (course, looked) = Course::drawn(&mut self.conn, sample, pair, direction, leaf, chunk_rows).await?;
        report.look(looked);
        Ok(course)
    }

    /// Compares a stretch; None when its leaf does not stand any more.
    async fn standing_chunk(
        &mut self,
        pair: Pair,
        direction: Direction,
        leaf: Leaf,
        stretch: &Stretch,
        suspicion: &mut Suspicion,
    ) -> Result<Option<Chunk>, VerifyError> {
        loop {
            match self.chunk(pair, direction, leaf, stretch, suspicion).await {
                // A leaf was renamed under the walk: it is being retired, this one or one that is held against it.
                Err(error) if is_undefined_table(&error) => {
                    let known = std::mem::take(&mut self.sight.leaves);
                    self.sight.leaves = Leaves::load(&mut self.conn).await?;
                    if !self.sight.leaves.stands(leaf) {
                        return Ok(None);
                    }
                    if self.sight.leaves == known {
                        return Err(error);
                    }
                }
                chunk => return chunk.map(Some),
            }
        }
    }

    async fn throttle(&self, walked: u64, started: Instant) {
        if self.settings.rows_per_second > 0 {
            let due = Duration::from_secs_f64(walked as f64 / f64::from(self.settings.rows_per_second));
            tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
        }
    }

    async fn chunk(
        &mut self,
        pair: Pair,
        direction: Direction,
        leaf: Leaf,
        stretch: &Stretch,
        suspicion: &mut Suspicion,
    ) -> Result<Chunk, VerifyError> {
        let sight = &self.sight;
        let (mut chunk, horizon) = tx::run_on(&mut self.conn, "verify_chunk", Mode::Snapshot, async |conn| {
            let chunk = pair.chunk(conn, sight, direction, leaf, stretch).await?;
            let horizon = if chunk.suspects.is_empty() { 0 } else { horizon(conn).await? };
            Ok::<_, VerifyError>((chunk, horizon))
        })
        .await?;
        suspicion.subjects.append(&mut chunk.suspects);
        suspicion.horizon = suspicion.horizon.max(horizon);
        Ok(chunk)
    }

    /// Looks at suspects again, until they agree or have differed often enough to be reported.
    async fn confirm(
        &mut self,
        pair: Pair,
        mut suspicion: Suspicion,
        report: &mut PairReport,
        found: &mut Vec<Found>,
    ) -> Result<(), VerifyError> {
        let mut still: Vec<Found> = Vec::new();
        report.looked_again += suspicion.subjects.len() as u64;
        for _ in 0..self.settings.looks {
            if suspicion.subjects.is_empty() {
                return Ok(());
            }
            self.settle(suspicion.horizon).await?;
            (still, suspicion.horizon) = self.look(pair, &suspicion.subjects).await?;
            let mut seen = HashSet::new();
            suspicion.subjects = still
                .iter()
                .map(|found| found.subject.clone())
                .filter(|subject| seen.insert(subject.clone()))
                .collect();
        }
        for one in still {
            add(found, one);
        }
        Ok(())
    }

    /// Examines in a snapshot of its own, with the leaves as they are in it.
    async fn look(&mut self, pair: Pair, subjects: &[Subject]) -> Result<(Vec<Found>, i64), VerifyError> {
        let secrets = self.sight.secrets;
        tx::run_on(&mut self.conn, "verify_look", Mode::Snapshot, async |conn| {
            let sight = Sight { secrets, leaves: Leaves::load(conn).await? };
            let found = pair.examine(conn, &sight, subjects).await?;
            Ok((found, horizon(conn).await?))
        })
        .await
    }

    /// Waits until everything that was in flight has ended, or long enough. Then looks whether the keys have changed: of
    /// what is in the tables now, none was written with keys that are newer.
    async fn settle(&mut self, horizon: i64) -> Result<(), VerifyError> {
        self.wait_for(horizon).await?;
        self.sight.secrets.refresh()?;
        Ok(())
    }

    async fn wait_for(&mut self, horizon: i64) -> Result<(), VerifyError> {
        let deadline = Instant::now() + Duration::from_millis(self.settings.settle_max_ms);
        loop {
            let oldest: i64 = sqlx::query_scalar("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
                .fetch_one(&mut self.conn)
                .await?;
            if oldest >= horizon || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(HORIZON_POLL).await;
        }
    }

    async fn repair(&mut self, pair: Pair, found: &mut [Found]) -> Result<(), VerifyError> {
        let mut outcomes: HashMap<Subject, Repair> = HashMap::new();
        for Found { subject, difference } in found.iter() {
            if outcomes.contains_key(subject) {
                continue;
            }
            let sight = &self.sight;
            let outcome = tx::run_on(&mut self.conn, "verify_repair", Mode::ReadCommitted, async |conn| {
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
            left.extend(self.look(pair, subjects).await?.0);
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

/// Each row is told once; that it is altered says more than that it is extra for the base row it names by mistake.
fn add(found: &mut Vec<Found>, one: Found) {
    let same = |other: &&mut Found| {
        other.difference.table == one.difference.table && other.difference.key == one.difference.key
    };
    match found.iter_mut().find(same) {
        None => found.push(one),
        Some(other) if other.difference.kind == Kind::Extra && one.difference.kind == Kind::Altered => *other = one,
        Some(_) => {}
    }
}

async fn horizon(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetch_one(conn).await
}

fn is_undefined_table(error: &VerifyError) -> bool {
    tx::database_cause(error).and_then(sqlstate).as_deref() == Some("42P01")
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
