//! Writes: the requests that wait become one transaction.
//!
//! A batch is run, committed once and answered one by one. What fails before COMMIT is sent is rolled back and, where
//! it is the kind of failure that passes, run again; a batch that fails as a whole is run one request at a time, so
//! that a poisoned request fails alone. An error after COMMIT was sent leaves the outcome unknown, but for the one by which
//! the server says that it had ended the session before: it is looked up by request number and never executed again.
//!
//! A request may need what somebody else holds, for a millisecond or, when a node stands still in a transaction, for
//! seconds. It is put aside and joins a later batch, so that those which came with it do not wait. One that has been put
//! aside often, or that waited for a lock in vain, has a batch of its own that waits for what is held: one at a time and
//! half of the time at most, so that the connections serve the rest.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    Cost, LaneError, LaneSettings,
    conn::{LaneConn, is_spent},
    queue::{Bucket, Queue, Unanswered},
    tx::Tx,
};
use crate::db::{is_missing_leaf, is_transient, sqlstate};

/// How often a batch that failed in passing is run again, and the pause before each.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_millis(2), Duration::from_millis(15), Duration::from_millis(60)];
const LOOK_UP_FAILURES: u32 = 8;
/// SQLSTATE of a lock timeout.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// SQLSTATE of a session that the server ended since its transaction did nothing for too long.
const IDLE_IN_TRANSACTION: &str = "25P03";
/// How long a lock is waited for by who has a turn of waiting, and by all after one has waited in vain.
const SHORT_LOCK_TIMEOUT: Duration = Duration::from_millis(100);
/// For about so long a request is put aside at first, as long as a commit takes; each time after that twice as long,
const ASIDE_PAUSE: Duration = Duration::from_millis(2);
/// up to so many times.
const ASIDE_DOUBLINGS: u32 = 5;
/// Who was put aside so often may wait for what is held.
const PATIENT_AFTER: u32 = 6;
/// So many of a batch that is run one by one may wait in vain; the rest is put aside.
const IN_VAIN_MAX: usize = 2;

/// Why the body of a write gave up. The transaction is rolled back in every case.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("a statement failed")]
    Sql(#[from] sqlx::Error),
    /// Somebody's half-done work was in the way; running the batch again will meet its end.
    #[error("the batch met work in flight: {0}")]
    Again(&'static str),
    /// One of them spoils the batch for the others.
    #[error("the requests of the batch must be run one by one")]
    Apart,
    /// A row that cannot be; names table, column and key.
    #[error("inconsistent: {0}")]
    Inconsistent(String),
}

/// One kind of write: decides and writes a batch inside a transaction that the lane began and will commit.
pub trait Writer: Send + Sync + 'static {
    type Op: Send + Sync + 'static;
    type Answer: Clone + Send + 'static;

    const NAME: &'static str;

    /// Whether requests of this kind may share a transaction. What can fail on a constraint runs alone.
    const BATCHED: bool = true;

    /// Whether all that it reads must be of one moment: it then has one snapshot (REPEATABLE READ), so that it need lock
    /// nothing to read much. Not for what updates or locks rows, which would fail on those changed since.
    const SNAPSHOT: bool = false;

    /// How much of a batch this request takes; 1 is an ordinary one.
    fn weight(&self, _op: &Self::Op) -> usize {
        1
    }

    /// Whatever is worth doing before the transaction. Nothing may depend on it: when a batch is run again, it is not.
    fn prepare<'t>(&'t self, _ops: &'t [Arc<Self::Op>]) -> impl Future<Output = ()> + Send + 't {
        std::future::ready(())
    }

    /// Decides every request, in order of arrival, and writes what was granted. `None` is for one that needs what
    /// somebody else holds: nothing of it may be written, unless all are `None`, which is rolled back. No effect outside
    /// the transaction, since it may be run again.
    fn run<'t>(
        &'t self,
        tx: &'t mut Tx<'_>,
        ops: &'t [Arc<Self::Op>],
    ) -> impl Future<Output = Result<Vec<Option<Self::Answer>>, WriteError>> + Send + 't;

    /// What became of a request whose COMMIT was answered by an error. Runs in a transaction that is rolled back.
    /// [`WriteError::Again`]: the commit is still under way. `None`: it was not committed.
    fn look_up<'t>(
        &'t self,
        tx: &'t mut Tx<'_>,
        op: &'t Self::Op,
    ) -> impl Future<Output = Result<Option<Self::Answer>, WriteError>> + Send + 't;

    /// The answer of a request whose COMMIT was answered by an error: what was decided before it, and what the look-up
    /// found. They differ when the transaction was rolled back and somebody else has used the number since.
    fn settle(&self, _op: &Self::Op, _decided: Self::Answer, found: Self::Answer) -> Self::Answer {
        found
    }
}

/// A batch of requests as a worker took it.
pub struct Batch<W: Writer> {
    requests: Vec<Waiting<W>>,
    /// Whether it is one request that waits for what somebody else holds.
    patient: bool,
}

struct Waiting<W: Writer> {
    op: Arc<W::Op>,
    since: Instant,
    /// How often it was put aside.
    aside: u32,
    /// It waited for a lock in vain, and would have the next batch wait too.
    alone: bool,
    _unanswered: Unanswered,
    answer: oneshot::Sender<Result<(W::Answer, Cost), LaneError>>,
}

/// The entrance of one kind of write. Cheap to clone.
pub struct WriterHandle<W: Writer> {
    bucket: Arc<WriterBucket<W>>,
}

impl<W: Writer> Clone for WriterHandle<W> {
    fn clone(&self) -> Self {
        Self { bucket: Arc::clone(&self.bucket) }
    }
}

struct WriterBucket<W: Writer> {
    writer: W,
    waiting: Mutex<Vec<Waiting<W>>>,
    queue: Arc<Queue>,
    settings: Arc<LaneSettings>,
}

impl<W: Writer> WriterHandle<W> {
    pub(super) fn new(writer: W, queue: Arc<Queue>, settings: Arc<LaneSettings>) -> Self {
        Self { bucket: Arc::new(WriterBucket { writer, waiting: Mutex::default(), queue, settings }) }
    }

    /// Hands a request to the lane and waits for its answer. Dropping the future does not take the request back.
    ///
    /// # Errors
    /// [`LaneError`]: overloaded, busy, unavailable, outcome unknown, failed.
    pub async fn write(&self, op: W::Op) -> Result<(W::Answer, Cost), LaneError> {
        self.bucket.queue.enter()?;
        let (answer, answered) = oneshot::channel();
        let _unanswered = Unanswered::new(&self.bucket.queue);
        let (op, since) = (Arc::new(op), Instant::now());
        self.bucket.add(Waiting { op, since, aside: 0, alone: false, _unanswered, answer });
        answered.await.unwrap_or(Err(LaneError::Panicked))
    }
}

/// How one attempt at a transaction ended.
enum Attempt<A> {
    /// With nothing of those that are put aside.
    Committed(Vec<Option<A>>),
    /// Rolled back, or never begun. Safe to run again.
    RolledBack(WriteError),
    /// COMMIT was sent and answered by an error, or not at all.
    Unknown(Vec<Option<A>>),
    Unreachable(Arc<sqlx::Error>),
}

/// What became of a request that did not fail.
enum Done<A> {
    Answered(A),
    /// It needs what somebody else holds.
    Aside,
    /// The same, and its neighbours would wait for it.
    Alone,
}

impl<A> From<Option<A>> for Done<A> {
    fn from(answer: Option<A>) -> Self {
        answer.map_or(Self::Aside, Self::Answered)
    }
}

type Outcome<A> = Result<Done<A>, LaneError>;

/// While one request waits for what somebody else holds.
struct Turn<'b, W: Writer> {
    bucket: &'b WriterBucket<W>,
    began: Instant,
}

impl<W: Writer> Drop for Turn<'_, W> {
    fn drop(&mut self) {
        self.bucket.queue.patience().end(self.began.elapsed());
    }
}

impl<W: Writer> WriterBucket<W> {
    /// Adds a request that has a place in the queue.
    fn add(self: &Arc<Self>, request: Waiting<W>) {
        let was_empty = {
            let mut waiting = self.waiting.lock().expect("no code panics while it holds the bucket");
            waiting.push(request);
            waiting.len() == 1
        };
        if was_empty {
            self.queue.push(Arc::clone(self) as Arc<dyn Bucket>);
        }
    }

    /// Has requests wait for what somebody else holds, each for a while of its own.
    fn put_aside(self: &Arc<Self>, requests: Vec<Waiting<W>>) {
        if requests.is_empty() {
            return;
        }
        metrics::counter!("tessera_lane_put_aside_total", "writer" => W::NAME).increment(requests.len() as u64);
        for mut request in requests {
            let pause = ASIDE_PAUSE * (1 << request.aside.min(ASIDE_DOUBLINGS));
            request.aside += 1;
            if request.since.elapsed() >= self.settings.wait_max {
                self.refuse(request);
                continue;
            }
            self.queue.enter_again();
            let bucket = Arc::clone(self);
            tokio::spawn(async move {
                // Not at once with others: two that need what the other got first would meet for ever.
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                bucket.add(request);
            });
        }
    }

    /// Answers a request that has waited too long.
    fn refuse(&self, request: Waiting<W>) {
        let error = if request.aside > 0 {
            metrics::counter!("tessera_lane_busy_total", "writer" => W::NAME).increment(1);
            LaneError::Busy
        } else {
            LaneError::Overloaded
        };
        let _ = request.answer.send(Err(error));
    }

    /// Takes what waits, up to a batch, and gives the rest another turn at once, so that another worker can serve it.
    fn take(self: &Arc<Self>) -> Batch<W> {
        let mut not_yet = Vec::new();
        let (taken, patient, rest) = {
            let mut waiting = self.waiting.lock().expect("no code panics while it holds the bucket");
            let wants = waiting.iter().position(|one| one.alone || one.aside >= PATIENT_AFTER);
            if let Some(at) = wants.filter(|_| self.queue.patience().begin()) {
                (vec![waiting.remove(at)], true, waiting.len())
            } else {
                let (alone, others) = std::mem::take(&mut *waiting).into_iter().partition(|one| one.alone);
                (not_yet, *waiting) = (alone, others);
                let fits = self.fitting(&waiting);
                let rest = waiting.split_off(fits);
                let rest_len = rest.len();
                (std::mem::replace(&mut *waiting, rest), false, rest_len)
            }
        };
        self.queue.leave(taken.len() + not_yet.len());
        if rest > 0 {
            self.queue.push(Arc::clone(self) as Arc<dyn Bucket>);
        }
        self.put_aside(not_yet);
        // What waited too long is refused unexecuted. A caller that went away is served all the same: it was accepted.
        let wait_max = self.settings.wait_max;
        let (requests, late): (Vec<_>, Vec<_>) = taken.into_iter().partition(|one| one.since.elapsed() <= wait_max);
        late.into_iter().for_each(|one| self.refuse(one));
        Batch { requests, patient }
    }

    /// How many of those that wait make a batch.
    fn fitting(&self, waiting: &[Waiting<W>]) -> usize {
        let batch_max = if W::BATCHED { self.settings.write_batch_max } else { 1 };
        let mut weight = 0;
        let fits = waiting.iter().take_while(|one| {
            weight += self.writer.weight(&one.op);
            weight <= batch_max
        });
        fits.count().max(1).min(waiting.len())
    }

    /// How a transaction begins now.
    fn begin(&self, patient: bool) -> &'static str {
        if W::SNAPSHOT {
            return "begin isolation level repeatable read";
        }
        let is_short = patient || self.queue.patience().is_short();
        if is_short && self.settings.lock_timeout > SHORT_LOCK_TIMEOUT {
            "begin; set local lock_timeout = '100ms'"
        } else {
            "begin"
        }
    }

    async fn attempt(
        &self,
        conn: &mut LaneConn,
        ops: &[Arc<W::Op>],
        (leaves_max, patient): (usize, bool),
        cost: &mut Cost,
    ) -> Attempt<W::Answer> {
        let open = match conn.open().await {
            Ok(open) => open,
            Err(error) => return Attempt::Unreachable(error),
        };
        let mut tx = Tx::of_lane(open, self.begin(patient), &self.settings, leaves_max);
        if patient {
            tx.be_patient();
        }
        let body = async {
            let answers = self.writer.run(&mut tx, ops).await?;
            tx.flush().await?;
            Ok(answers)
        };
        let decided = match tokio::time::timeout(self.settings.batch_timeout, body).await {
            Ok(decided) => decided,
            Err(_) => Err(WriteError::Sql(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
        };
        (cost.statements, cost.leaves) = tx.counts();
        let (has_begun, keeps_nothing) = (tx.has_begun(), tx.keeps_nothing());
        match decided {
            Ok(answers) if answers.len() == ops.len() && (keeps_nothing || answers.iter().all(Option::is_none)) => {
                roll_back(conn, has_begun).await;
                Attempt::Committed(answers)
            }
            Ok(answers) if answers.len() == ops.len() => {
                match tokio::time::timeout(self.settings.batch_timeout, sqlx::raw_sql("commit").execute(&mut open.conn))
                    .await
                {
                    Ok(Ok(_)) => Attempt::Committed(answers),
                    // The server had ended it before.
                    Ok(Err(error)) if sqlstate(&error).as_deref() == Some(IDLE_IN_TRANSACTION) => {
                        conn.discard();
                        Attempt::RolledBack(WriteError::Sql(error))
                    }
                    _ => {
                        conn.discard();
                        Attempt::Unknown(answers)
                    }
                }
            }
            Ok(_) => {
                roll_back(conn, has_begun).await;
                Attempt::RolledBack(WriteError::Inconsistent(format!(
                    "{} answered another number of requests",
                    W::NAME
                )))
            }
            Err(WriteError::Sql(error)) if is_spent(&error) => {
                conn.discard();
                Attempt::RolledBack(WriteError::Sql(error))
            }
            Err(error) => {
                roll_back(conn, has_begun).await;
                Attempt::RolledBack(error)
            }
        }
    }

    /// Runs a batch until it is committed, given up, or of unknown outcome.
    async fn run(
        &self,
        conn: &mut LaneConn,
        ops: &[Arc<W::Op>],
        patient: bool,
        cost: &mut Cost,
    ) -> Vec<Outcome<W::Answer>> {
        let mut pauses = RETRY_PAUSES.into_iter();
        let started = Instant::now();
        let mut leaves_max = self.settings.leaves_max;
        loop {
            let failure = match self.attempt(conn, ops, (leaves_max, patient), cost).await {
                Attempt::Committed(answers) => return answers.into_iter().map(|answer| Ok(answer.into())).collect(),
                Attempt::Unknown(decided) => return self.look_up(conn, ops, decided).await,
                Attempt::Unreachable(error) => return all_failed(ops, LaneError::Unavailable(error)),
                Attempt::RolledBack(failure) => failure,
            };
            // An id can name a day for which there is no leaf. Through the parents such a row is simply not found.
            if leaves_max > 0 && matches!(&failure, WriteError::Sql(error) if is_missing_leaf(error)) {
                metrics::counter!("tessera_lane_missing_leaves_total").increment(1);
                leaves_max = 0;
                continue;
            }
            if passes(&failure)
                && started.elapsed() < self.settings.wait_max
                && let Some(pause) = pauses.next()
            {
                metrics::counter!("tessera_lane_retries_total", "writer" => W::NAME).increment(1);
                tokio::time::sleep(pause).await;
                continue;
            }
            let waited_in_vain =
                matches!(&failure, WriteError::Sql(error) if sqlstate(error).as_deref() == Some(LOCK_NOT_AVAILABLE));
            if waited_in_vain {
                if !patient {
                    self.queue.patience().be_short(self.settings.wait_max);
                }
                let error = &failure as &dyn std::error::Error;
                tracing::debug!(writer = W::NAME, requests = ops.len(), error, "waited for a lock in vain");
            }
            if ops.len() > 1 && !matches!(&failure, WriteError::Sql(error) if is_spent(error)) {
                return self.run_one_by_one(conn, ops).await;
            }
            if waited_in_vain {
                // A turn of waiting may have been for a row that batches pass by.
                return ops.iter().map(|_| Ok(if patient { Done::Aside } else { Done::Alone })).collect();
            }
            return all_failed(ops, given_up(failure));
        }
    }

    async fn run_one_by_one(&self, conn: &mut LaneConn, ops: &[Arc<W::Op>]) -> Vec<Outcome<W::Answer>> {
        metrics::counter!("tessera_lane_split_batches_total", "writer" => W::NAME).increment(1);
        let mut answers = Vec::with_capacity(ops.len());
        let (started, mut in_vain) = (Instant::now(), 0);
        for op in ops {
            // Somebody may hold a row that many of them want: the rest must not wait for that here.
            if in_vain >= IN_VAIN_MAX || started.elapsed() >= self.settings.wait_max {
                answers.push(Ok(Done::Aside));
                continue;
            }
            // Boxed: this is the same future as the caller's, one level down, with batches of one.
            let mut cost = Cost::default();
            let alone = Box::pin(self.run(conn, std::slice::from_ref(op), false, &mut cost));
            let outcome = alone.await;
            in_vain += outcome.iter().filter(|outcome| matches!(outcome, Ok(Done::Alone))).count();
            answers.extend(outcome);
        }
        answers
    }

    /// Learns the outcome of a transaction whose COMMIT went astray.
    async fn look_up(
        &self,
        conn: &mut LaneConn,
        ops: &[Arc<W::Op>],
        decided: Vec<Option<W::Answer>>,
    ) -> Vec<Outcome<W::Answer>> {
        metrics::counter!("tessera_lane_unknown_outcomes_total", "writer" => W::NAME).increment(ops.len() as u64);
        let mut answers = Vec::with_capacity(ops.len());
        // One bound for the batch: a worker that looks up is missed by everybody else.
        let deadline = Instant::now() + self.settings.batch_timeout;
        for (op, decided) in ops.iter().zip(decided) {
            let Some(decided) = decided else {
                answers.push(Ok(Done::Aside));
                continue;
            };
            let found = self.look_up_one(conn, op, deadline).await.ok_or(LaneError::OutcomeUnknown);
            answers.push(found.map(|found| Done::Answered(self.writer.settle(op, decided, found))));
        }
        answers
    }

    async fn look_up_one(&self, conn: &mut LaneConn, op: &W::Op, deadline: Instant) -> Option<W::Answer> {
        let mut failures = 0;
        for attempt in 0.. {
            if Instant::now() >= deadline || failures >= LOOK_UP_FAILURES {
                return None;
            }
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(50 << attempt.min(4))).await;
            }
            failures += 1;
            let Ok(open) = conn.open().await else { continue };
            let mut tx = Tx::of_lane(open, "begin", &self.settings, self.settings.leaves_max);
            let body = self.writer.look_up(&mut tx, op);
            let found = tokio::time::timeout(self.settings.batch_timeout, body).await;
            let has_begun = tx.has_begun();
            match found {
                Ok(Ok(answer)) => {
                    roll_back(conn, has_begun).await;
                    return answer;
                }
                // The commit is under way.
                Ok(Err(WriteError::Again(_))) => {
                    failures -= 1;
                    roll_back(conn, has_begun).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(writer = W::NAME, error = &error as &dyn std::error::Error, "look-up failed");
                    match error {
                        WriteError::Sql(error) if is_spent(&error) => conn.discard(),
                        _ => roll_back(conn, has_begun).await,
                    }
                }
                Err(_) => conn.discard(),
            }
        }
        None
    }
}

/// Ends a failed transaction, if it has begun: of one that has not, the server would log a warning. A connection that
/// cannot say it did is closed: the server rolls back then.
async fn roll_back(conn: &mut LaneConn, has_begun: bool) {
    if !has_begun {
        return;
    }
    let rolled_back = match conn.get().await {
        Ok(open) => {
            matches!(
                tokio::time::timeout(Duration::from_secs(1), sqlx::raw_sql("rollback").execute(open)).await,
                Ok(Ok(_))
            )
        }
        Err(_) => false,
    };
    if !rolled_back {
        conn.discard();
    }
}

fn passes(failure: &WriteError) -> bool {
    match failure {
        WriteError::Sql(error) => is_spent(error) || is_transient(error),
        WriteError::Again(_) => true,
        WriteError::Apart | WriteError::Inconsistent(_) => false,
    }
}

fn given_up(failure: WriteError) -> LaneError {
    match failure {
        WriteError::Sql(error) if is_spent(&error) || is_transient(&error) => LaneError::Unavailable(Arc::new(error)),
        // Statement timeout: the database is slower than a till can wait.
        WriteError::Sql(error) if sqlstate(&error).as_deref() == Some("57014") => {
            LaneError::Unavailable(Arc::new(error))
        }
        WriteError::Sql(error) => LaneError::Failed(Arc::new(error)),
        WriteError::Again(_) | WriteError::Apart => LaneError::Overloaded,
        WriteError::Inconsistent(what) => LaneError::Inconsistent(what.into()),
    }
}

fn all_failed<A, T>(ops: &[T], error: LaneError) -> Vec<Outcome<A>> {
    ops.iter().map(|_| Err(error.clone())).collect()
}

impl<W: Writer> Bucket for WriterBucket<W> {
    fn serve<'c>(self: Arc<Self>, conn: &'c mut LaneConn) -> Pin<Box<dyn Future<Output = ()> + Send + 'c>> {
        Box::pin(async move {
            let Batch { requests, patient } = self.take();
            let _turn = patient.then(|| Turn { bucket: &*self, began: Instant::now() });
            if requests.is_empty() {
                return;
            }
            let ops: Vec<Arc<W::Op>> = requests.iter().map(|one| Arc::clone(&one.op)).collect();
            let started = Instant::now();
            let mut cost = Cost { batch: ops.len() as u32, ..Cost::default() };
            self.writer.prepare(&ops).await;
            let outcomes = self.run(conn, &ops, patient, &mut cost).await;
            cost.database = started.elapsed();
            metrics::histogram!("tessera_lane_batch_requests", "writer" => W::NAME).record(ops.len() as f64);
            let mut aside = Vec::new();
            for (mut one, outcome) in requests.into_iter().zip(outcomes) {
                let cost = Cost { queue: started - one.since, ..cost };
                match outcome {
                    Ok(Done::Answered(answer)) => drop(one.answer.send(Ok((answer, cost)))),
                    Ok(Done::Aside) => aside.push(one),
                    Ok(Done::Alone) => {
                        one.alone = true;
                        aside.push(one);
                    }
                    Err(error) => drop(one.answer.send(Err(error))),
                }
            }
            self.put_aside(aside);
        })
    }
}
