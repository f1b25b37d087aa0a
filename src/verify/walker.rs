//! One connection's part of a run: walks leaves, looks again at what it suspects.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::{
    Finds, VerifyError, VerifySettings,
    leaves::Leaves,
    pair::{Chunk, Direction, Found, Pair, Sight, Subject},
    report::PairReport,
    row::Key,
    sample::{Course, Sample, Stretch},
};
use crate::{
    db::{
        sqlstate,
        tx::{self, Mode},
    },
    partition::Leaf,
    secret::Secrets,
};

/// Suspects that are looked at again together.
pub(super) const LOOK_AGAIN_ROWS: usize = 500;
const HORIZON_POLL: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Walker {
    settings: Arc<VerifySettings>,
    sample: Option<Sample>,
    pub conn: PgConnection,
    pub sight: Sight,
}

/// The leaves of a pair, of which each walker takes the next, and what all of them have done and found.
pub(super) struct Walks {
    leaves: Vec<(Direction, Leaf)>,
    next: AtomicUsize,
    started: Instant,
    walked: AtomicU64,
    /// Rows that differ, each once.
    found: Mutex<HashSet<(&'static str, Key)>>,
}

impl Walks {
    pub fn new(leaves: Vec<(Direction, Leaf)>) -> Self {
        let (next, walked, found) = (AtomicUsize::new(0), AtomicU64::new(0), Mutex::default());
        Self { leaves, next, started: Instant::now(), walked, found }
    }

    fn found(&self, differences: impl Iterator<Item = (&'static str, Key)>) {
        self.found.lock().expect("no code panics while it holds the set").extend(differences);
    }

    fn is_too_much(&self, settings: &VerifySettings) -> bool {
        self.found.lock().expect("no code panics while it holds the set").len() > settings.differences_max as usize
    }
}

/// What is to be said of one leaf.
pub(super) struct Part {
    /// Which leaf it was, in their order.
    pub at: usize,
    pub report: PairReport,
    pub found: Finds,
}

/// Suspects with what their snapshot could not see the end of.
#[derive(Default)]
pub(super) struct Suspicion {
    subjects: Vec<Subject>,
    /// The first transaction after all that were in flight.
    horizon: i64,
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

impl Walker {
    pub async fn connect(
        settings: Arc<VerifySettings>,
        sample: Option<Sample>,
        options: PgConnectOptions,
        secrets: Arc<Secrets>,
    ) -> Result<Self, VerifyError> {
        let mut conn = with_settings(options).connect().await?;
        let leaves = Leaves::load(&mut conn).await?;
        Ok(Self { settings, sample, conn, sight: Sight { secrets, leaves } })
    }

    /// Walks leaves until none is left, or too much has been found.
    pub async fn walk(mut self, pair: Pair, walks: Arc<Walks>) -> Result<(Self, Vec<Part>), VerifyError> {
        let mut parts = Vec::new();
        loop {
            let at = walks.next.fetch_add(1, Ordering::Relaxed);
            let Some((direction, leaf)) = walks.leaves.get(at).copied() else { return Ok((self, parts)) };
            let mut part = Part { at, report: PairReport::default(), found: Finds::default() };
            self.leaf(pair, direction, leaf, &walks, &mut part).await?;
            part.report.cut_short = walks.is_too_much(&self.settings);
            let is_over = part.report.cut_short;
            parts.push(part);
            if is_over {
                return Ok((self, parts));
            }
        }
    }

    /// Walks one leaf to its end, or along what is drawn of it.
    async fn leaf(
        &mut self,
        pair: Pair,
        direction: Direction,
        leaf: Leaf,
        walks: &Walks,
        part: &mut Part,
    ) -> Result<(), VerifyError> {
        let Part { report, found, .. } = part;
        let mut told = Instant::now();
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
            let walked = walks.walked.fetch_add(chunk.rows, Ordering::Relaxed) + chunk.rows;
            if suspicion.subjects.len() >= LOOK_AGAIN_ROWS {
                self.confirm(pair, std::mem::take(&mut suspicion), walks, report, found).await?;
            }
            if walks.is_too_much(&self.settings) {
                return Ok(());
            }
            course.reached(chunk.last);
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                tracing::info!(pair = pair.name(), %leaf, rows = walked, "comparing");
            }
            self.throttle(walked, walks.started).await;
        }
        self.confirm(pair, suspicion, walks, report, found).await
    }

    pub async fn course(
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
    pub async fn standing_chunk(
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
        walks: &Walks,
        report: &mut PairReport,
        found: &mut Finds,
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
        walks.found(still.iter().map(|found| (found.difference.table, found.difference.key.clone())));
        still.into_iter().for_each(|one| found.add(one));
        Ok(())
    }

    /// Examines in a snapshot of its own, with the leaves as they are in it.
    pub async fn look(&mut self, pair: Pair, subjects: &[Subject]) -> Result<(Vec<Found>, i64), VerifyError> {
        let secrets = Arc::clone(&self.sight.secrets);
        tx::run_on(&mut self.conn, "verify_look", Mode::Snapshot, async |conn| {
            let sight = Sight { secrets: Arc::clone(&secrets), leaves: Leaves::load(conn).await? };
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
}

async fn horizon(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetch_one(conn).await
}

fn is_undefined_table(error: &VerifyError) -> bool {
    tx::database_cause(error).and_then(sqlstate).as_deref() == Some("42P01")
}
