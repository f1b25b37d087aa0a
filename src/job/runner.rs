//! Works on jobs: leases, turns, slices.
//!
//! A node has a few hands. Each takes up the job that waited longest, works on it for a turn and gives it back; with
//! nobody waiting it goes on. Rows are read, checked and encrypted outside of transactions, those of the next slice while
//! the one before is written.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::JoinHandle,
};
use uuid::Uuid;

use super::{
    ATTEMPTS_MAX, Checkpoint, GAVE_UP, Job, JobError, Kind,
    file::FileReader,
    store::{self, Progress},
};
use crate::{
    clock::Clock,
    coupon::bulk::CouponWorks,
    db::{
        pool::Office,
        tx::{self, Mode},
    },
    member::import::MemberImport,
    problem::{Code, Refusal},
    secret::Secrets,
};

/// How long a hand stays with one job while others wait.
const TURN: Duration = Duration::from_secs(1);
/// How often a node looks for jobs that other nodes were given, or lost.
const POLL: Duration = Duration::from_millis(500);
/// A job that met an error rests for so long; twice as long after each further attempt,
const REST_FIRST: Duration = Duration::from_secs(2);
/// up to this: [`ATTEMPTS_MAX`] attempts take more than two hours.
const REST_MAX: Duration = Duration::from_secs(60);
/// When a file that found no place is worth sending again.
const UPLOAD_RETRY_SECS: u64 = 10;
/// What a slice is meant to take; bulk work must not hold the horizon.
const SLICE_TIME: Duration = Duration::from_millis(400);
const SLICE_ROWS_MIN: usize = 100;
/// Files are looked through for age this often.
const PURGE_EVERY: Duration = Duration::from_secs(600);
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a node works on jobs.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// Jobs at once on this node.
    pub hands: usize,
    pub slice_rows_max: usize,
    /// A job of a node that died is taken over after this time.
    pub lease: Duration,
    /// Files that come in at once on this node.
    pub uploads_max: usize,
    /// Jobs of a caller that have not ended.
    pub open_max: i64,
    /// Jobs that have ended are kept for so long.
    pub retain: TimeDelta,
}

/// What a kind of job does.
pub trait Work: Send + Sync + 'static {
    /// Rows made ready: what can be done before the transaction.
    type Slice: Send + Sync + 'static;

    /// Reads rows from the checkpoint on, at most `rows_max`.
    fn prepare(
        &self,
        job: &Job,
        file: &mut FileReader,
        from: Checkpoint,
        rows_max: usize,
    ) -> impl Future<Output = Result<Self::Slice, JobError>> + Send;

    /// Where the slice ends, and whether the file ends there too.
    fn end(slice: &Self::Slice) -> (Checkpoint, bool);

    /// Writes a slice in the engine's transaction. It may be called again for the same slice after a rollback.
    fn write(
        &self,
        conn: &mut PgConnection,
        job: &Job,
        slice: &Self::Slice,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Progress, JobError>> + Send;

    /// Tells of a job whose last slice is written, in that slice's transaction. `rows_ok` are those of all slices.
    fn finish(
        &self,
        conn: &mut PgConnection,
        job: &Job,
        slice: &Self::Slice,
        rows_ok: i64,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<(), JobError>> + Send;
}

/// The hands of a node.
pub struct Runner {
    engine: Arc<Engine>,
    stop: watch::Sender<bool>,
    uploads: Arc<Semaphore>,
    hands: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

struct Engine {
    office: Office,
    connect: PgConnectOptions,
    clock: Clock,
    secrets: Arc<Secrets>,
    settings: JobSettings,
    wake: Notify,
    stopped: watch::Receiver<bool>,
    member_import: MemberImport,
    coupons: CouponWorks,
}

/// What the hands work with.
pub struct RunnerParts {
    pub office: Office,
    /// As the service's role: hands have connections of their own.
    pub connect: PgConnectOptions,
    pub clock: Clock,
    pub secrets: Arc<Secrets>,
    pub settings: JobSettings,
    pub member_import: MemberImport,
    pub coupons: CouponWorks,
}

impl Runner {
    /// Starts the hands.
    pub fn start(parts: RunnerParts) -> Self {
        let (stop, stopped) = watch::channel(false);
        let millis = |duration: Duration| duration.as_millis().to_string();
        let connect = parts
            .connect
            .application_name("tessera job")
            .statement_cache_capacity(256)
            .disable_statement_logging()
            .options([
                ("plan_cache_mode", "force_generic_plan".to_owned()),
                ("enable_seqscan", "off".to_owned()),
                ("enable_hashjoin", "off".to_owned()),
                ("enable_mergejoin", "off".to_owned()),
                ("jit", "off".to_owned()),
                ("lock_timeout", millis(LOCK_TIMEOUT)),
                ("statement_timeout", millis(STATEMENT_TIMEOUT)),
                ("idle_in_transaction_session_timeout", millis(STATEMENT_TIMEOUT)),
            ]);
        let engine = Arc::new(Engine {
            office: parts.office,
            connect,
            clock: parts.clock,
            secrets: parts.secrets,
            settings: parts.settings,
            wake: Notify::new(),
            stopped,
            member_import: parts.member_import,
            coupons: parts.coupons,
        });
        let mut hands: Vec<_> =
            (0..engine.settings.hands).map(|_| tokio::spawn(Hand::new(Arc::clone(&engine)).run())).collect();
        hands.push(tokio::spawn(keep_files(Arc::clone(&engine))));
        let uploads = Arc::new(Semaphore::new(engine.settings.uploads_max));
        Self { engine, stop, uploads, hands: std::sync::Mutex::new(hands) }
    }

    /// A job may have something to do.
    pub fn wake(&self) {
        self.engine.wake.notify_one();
    }

    /// A place for a file that comes in, until it is dropped.
    ///
    /// # Errors
    /// `too_many_requests` when this node takes in as many as it may.
    pub fn upload_place(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            Refusal::new(Code::TooManyRequests)
                .detail("as many files come in as may at once")
                .with("retry_after", UPLOAD_RETRY_SECS)
        })
    }

    /// Jobs of a caller that have not ended, at most.
    pub fn open_max(&self) -> i64 {
        self.engine.settings.open_max
    }

    /// What works on coupons.
    pub fn coupons(&self) -> &CouponWorks {
        &self.engine.coupons
    }

    /// What takes in the files of members.
    pub fn member_import(&self) -> &MemberImport {
        &self.engine.member_import
    }

    /// Ends the slices under way and gives the jobs back.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let hands: Vec<_> = self.hands.lock().expect("no code panics while it holds the hands").drain(..).collect();
        for hand in hands {
            let _ = hand.await;
        }
    }
}

impl Engine {
    fn has_stopped(&self) -> bool {
        *self.stopped.borrow()
    }

    async fn stopped(&self) {
        let _ = self.stopped.clone().wait_for(|stopped| *stopped).await;
    }
}

/// Deletes what is older than it may get.
async fn keep_files(engine: Arc<Engine>) {
    while !engine.has_stopped() {
        let kept = async {
            let mut conn = engine.office.get().await?;
            store::purge(&mut conn, engine.settings.retain, engine.clock.now()).await
        };
        match kept.await {
            Ok(0) => {}
            Ok(pieces) => tracing::info!(pieces, "deleted pieces of files that were kept long enough"),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "files were not looked through"),
        }
        tokio::select! {
            () = engine.stopped() => {}
            () = tokio::time::sleep(PURGE_EVERY) => {}
        }
    }
}

/// How long a job rests after so many attempts in a row.
fn rest_after(attempts: i16) -> Duration {
    let doublings = u32::from(attempts.unsigned_abs().saturating_sub(1)).min(8);
    (REST_FIRST * 2_u32.pow(doublings)).min(REST_MAX)
}

/// Works on one job at a time.
struct Hand {
    engine: Arc<Engine>,
    holder: Uuid,
    conn: Option<PgConnection>,
    rows_max: usize,
    failing: bool,
}

/// Why a turn ended.
enum Turn {
    /// The job has ended, or is another's or nobody's now.
    Over,
    /// Others wait, or the node stops.
    Yield,
}

impl Hand {
    fn new(engine: Arc<Engine>) -> Self {
        let rows_max = engine.settings.slice_rows_max;
        Self { engine, holder: Uuid::new_v4(), conn: None, rows_max, failing: false }
    }

    async fn run(mut self) {
        let engine = Arc::clone(&self.engine);
        while !engine.has_stopped() {
            match self.lease().await {
                Ok(Some(job)) => {
                    self.failing = false;
                    self.turn(job).await;
                    continue;
                }
                Ok(None) => self.failing = false,
                Err(error) => {
                    // Said once: the database being away is said by others every second.
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs");
                    }
                }
            }
            // A connection rests only while there is work.
            if let Some(conn) = self.conn.take() {
                let _ = conn.close().await;
            }
            tokio::select! {
                () = engine.stopped() => {}
                () = engine.wake.notified() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn lease(&self) -> Result<Option<Job>, JobError> {
        let engine = &self.engine;
        let mut conn = engine.office.get().await?;
        store::lease_job(&mut conn, self.holder, engine.settings.lease, engine.clock.now()).await
    }

    async fn turn(&mut self, job: Job) {
        let engine = Arc::clone(&self.engine);
        let job = Arc::new(job);
        let outcome = if job.attempts > ATTEMPTS_MAX {
            self.give_up(&job, GAVE_UP).await
        } else {
            match job.kind {
                // In a box, as what follows is: these futures are large, and stacks of workers are not.
                Kind::MemberImport => Box::pin(self.work(&engine.member_import, &job)).await,
                Kind::IssueJob => Box::pin(self.work(&engine.coupons.issue, &job)).await,
                Kind::CouponImport => Box::pin(self.work(&engine.coupons.import, &job)).await,
                Kind::IssueUndo => Box::pin(self.work(&engine.coupons.undo, &job)).await,
            }
        };
        let rest = match outcome {
            Ok(Turn::Over) => return,
            Ok(Turn::Yield) => None,
            Err(JobError::Damaged(cause)) => {
                let error = JobError::Damaged(cause);
                tracing::error!(job_id = %job.job_id, error = &error as &dyn std::error::Error, "a job cannot go on");
                if self.give_up(&job, "file_damaged").await.is_ok() {
                    return;
                }
                Some(rest_after(job.attempts))
            }
            Err(JobError::Refused(refusal)) => {
                tracing::info!(job_id = %job.job_id, code = refusal.code.name(), "a job pauses: it was refused");
                if self.pause(&job, refusal.code.name()).await.is_ok() {
                    return;
                }
                Some(rest_after(job.attempts))
            }
            Err(error) => {
                tracing::warn!(job_id = %job.job_id, error = &error as &dyn std::error::Error, "a job rests");
                // In doubt the connection goes: it may be in the middle of anything.
                self.conn = None;
                Some(rest_after(job.attempts))
            }
        };
        let given_back = async {
            let mut conn = engine.office.get().await?;
            store::release_job(&mut conn, job.job_id, self.holder, rest).await
        };
        if let Err(error) = given_back.await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a lease lapses by itself");
        }
    }

    async fn give_up(&self, job: &Job, why: &str) -> Result<Turn, JobError> {
        let mut conn = self.engine.office.get().await?;
        if !store::fail_job(&mut conn, job.job_id, self.holder, why, self.engine.clock.now()).await? {
            tracing::info!(job_id = %job.job_id, why, "a job was to fail that is another's by now");
        }
        Ok(Turn::Over)
    }

    async fn pause(&self, job: &Job, why: &str) -> Result<bool, JobError> {
        let mut conn = self.engine.office.get().await?;
        store::pause_job(&mut conn, job.job_id, self.holder, why, self.engine.clock.now()).await
    }

    async fn connect(&mut self) -> Result<PgConnection, JobError> {
        if let Some(conn) = self.conn.take() {
            return Ok(conn);
        }
        let connecting = PgConnection::connect_with(&self.engine.connect);
        let conn = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        Ok(conn.unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))?)
    }

    /// Slices of one job until its turn is over.
    async fn work<W: Work>(&mut self, work: &W, job: &Arc<Job>) -> Result<Turn, JobError> {
        let engine = Arc::clone(&self.engine);
        let began = Instant::now();
        let mut conn = self.connect().await?;
        let mut file = FileReader::new(engine.office.clone(), Arc::clone(&engine.secrets), job.job_id, job.bytes);
        let mut from = job.checkpoint();
        let mut slice = Box::pin(work.prepare(job, &mut file, from, self.rows_max)).await?;
        loop {
            let (end, is_last) = W::end(&slice);
            let written = Box::pin(write(&engine, self.holder, &mut conn, work, job, &slice, from));
            let next = Box::pin(async {
                if is_last { Ok(None) } else { work.prepare(job, &mut file, end, self.rows_max).await.map(Some) }
            });
            let (written, next) = tokio::join!(written, next);
            let Some(took) = written? else {
                self.conn = Some(conn);
                return Ok(Turn::Over);
            };
            self.adapt(took);
            let Some(next) = next? else {
                self.conn = Some(conn);
                return Ok(Turn::Over);
            };
            (from, slice) = (end, next);
            if engine.has_stopped() || (began.elapsed() >= TURN && store::anybody_waits(&mut conn).await?) {
                self.conn = Some(conn);
                return Ok(Turn::Yield);
            }
        }
    }

    /// The next slice is of as many rows as fit the time.
    fn adapt(&mut self, took: Duration) {
        if took > SLICE_TIME {
            self.rows_max = (self.rows_max / 2).max(SLICE_ROWS_MIN.min(self.engine.settings.slice_rows_max));
        } else if took < SLICE_TIME / 2 {
            self.rows_max = (self.rows_max * 2).min(self.engine.settings.slice_rows_max);
        }
    }
}

/// Writes a slice and gives how long that took. None: the job is not ours any more, or does not run.
async fn write<W: Work>(
    engine: &Engine,
    holder: Uuid,
    conn: &mut PgConnection,
    work: &W,
    job: &Arc<Job>,
    slice: &W::Slice,
    from: Checkpoint,
) -> Result<Option<Duration>, JobError> {
    let (lease, end) = (engine.settings.lease, W::end(slice));
    let now = engine.clock.now();
    let began = Instant::now();
    let progress = tx::run_on(conn, job.kind.name(), Mode::ReadCommitted, async move |conn: &mut PgConnection| {
        let Some(failed) = store::lock_for_slice(conn, job.job_id, holder, from).await? else { return Ok(None) };
        let progress = Box::pin(work.write(conn, job, slice, now)).await?;
        let rows_ok = store::update_progress(conn, job.job_id, end, (failed, &progress), lease, now).await?;
        if end.1 {
            work.finish(conn, job, slice, rows_ok, now).await?;
        }
        Ok::<_, JobError>(Some(progress))
    })
    .await?;
    let Some(progress) = progress else { return Ok(None) };
    let (kind, took) = (job.kind.name(), began.elapsed());
    metrics::histogram!("tessera_job_slice_seconds", "kind" => kind).record(took);
    for (outcome, rows) in [("ok", progress.ok), ("skipped", progress.skipped), ("failed", progress.failed())] {
        metrics::counter!("tessera_job_rows_total", "kind" => kind, "outcome" => outcome).increment(rows as u64);
    }
    Ok(Some(took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_double_up_to_a_minute_and_outlast_an_hour_without_a_database() {
        let rests: Vec<u64> = (1..=7).map(|attempts| rest_after(attempts).as_secs()).collect();
        assert_eq!(rests, [2, 4, 8, 16, 32, 60, 60]);
        let whole: Duration = (1..=ATTEMPTS_MAX).map(rest_after).sum();
        assert!(whole > Duration::from_secs(2 * 3600), "{whole:?}");
    }
}
