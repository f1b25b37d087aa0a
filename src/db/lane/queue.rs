//! A bounded queue of non-empty buckets and the workers that empty them, one connection each.
//!
//! Few workers make large batches, which is what shares round trips and commits. But where each batch waits for the disk
//! few workers leave it idle, so a queue may have helpers besides, who serve only buckets that have waited long for their
//! turn. And who finds nobody else there need not hand over to a worker and be handed the answer: see [`short`].
//!
//! [`short`]: super::short

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::{Notify, Semaphore};

use super::{LaneError, conn::LaneConn};

/// Something with requests waiting in it that a worker can serve. The bucket holds the requests; the queue holds only
/// its turn, so what arrives before the turn comes joins the batch.
pub(super) trait Bucket: Send + Sync {
    /// Serves what waits. Must answer every request it takes.
    fn serve<'c>(self: Arc<Self>, conn: &'c mut LaneConn) -> Pin<Box<dyn Future<Output = ()> + Send + 'c>>;
}

pub(super) struct Queue {
    name: &'static str,
    turns: Mutex<VecDeque<Turn>>,
    ready: Semaphore,
    /// Wakes a helper when the next turn is late.
    late: Notify,
    waiting: AtomicUsize,
    waiting_max: usize,
    /// Requests that were taken and hold an [`Unanswered`].
    unanswered: AtomicUsize,
    patience: Mutex<Patience>,
    stopping: AtomicBool,
    workers: AtomicUsize,
    worker_ended: Notify,
    /// Workers and helpers that serve at this moment.
    serving: AtomicUsize,
    /// One for each worker: odd while it serves, even in between.
    turns_served: Mutex<Vec<Arc<AtomicU64>>>,
}

/// A bucket that is to be served, and since when.
struct Turn {
    since: Instant,
    bucket: Arc<dyn Bucket>,
}

impl Turn {
    fn is_late(&self) -> bool {
        self.since.elapsed() >= LATE
    }
}

/// A request that may leave the queue and come again before it is answered: `stop` waits for it. Made while it has a
/// place.
pub(super) struct Unanswered(Arc<Queue>);

impl Unanswered {
    pub(super) fn new(queue: &Arc<Queue>) -> Self {
        queue.unanswered.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(queue))
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.unanswered.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How much of the connections' time goes to waiting for what somebody else holds.
#[derive(Default)]
pub(super) struct Patience {
    waits_since: Option<Instant>,
    /// Nobody waits before.
    again_at: Option<Instant>,
    /// Until then batches wait for locks for a short time only: one has waited in vain.
    short_until: Option<Instant>,
}

impl Patience {
    /// Whether a request may wait now. One at a time, unless one takes longer than any wait.
    pub(super) fn begin(&mut self) -> bool {
        let may = self.waits_since.is_none_or(|since| since.elapsed() > 2 * PATIENT_MAX)
            && self.again_at.is_none_or(|at| Instant::now() >= at);
        if may {
            self.waits_since = Some(Instant::now());
        }
        may
    }

    /// For as long as it took, nobody waits again.
    pub(super) fn end(&mut self, took: Duration) {
        (self.waits_since, self.again_at) = (None, Some(Instant::now() + took.min(PATIENT_MAX)));
    }

    pub(super) fn is_short(&self) -> bool {
        self.short_until.is_some_and(|until| Instant::now() < until)
    }

    /// A batch has waited in vain. One that waited for a short time only says nothing new.
    pub(super) fn be_short(&mut self, lasts: Duration) {
        if !self.is_short() {
            self.short_until = Some(Instant::now() + lasts);
        }
    }
}

/// What a turn of waiting is counted as at most.
const PATIENT_MAX: Duration = Duration::from_millis(250);
/// What waited so long for its turn is served by helpers too: several times what a turn takes on pages in memory.
const LATE: Duration = Duration::from_millis(1);
/// A helper that was not needed for so long closes its connection.
const HELPER_IDLE_MAX: Duration = Duration::from_secs(60);
/// Pause between two looks at workers that are waited for.
const QUIESCE_PAUSE: Duration = Duration::from_millis(5);

impl Queue {
    pub(super) fn new(name: &'static str, waiting_max: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            turns: Mutex::default(),
            ready: Semaphore::new(0),
            late: Notify::new(),
            waiting: AtomicUsize::new(0),
            waiting_max,
            unanswered: AtomicUsize::new(0),
            patience: Mutex::default(),
            stopping: AtomicBool::new(false),
            workers: AtomicUsize::new(0),
            serving: AtomicUsize::new(0),
            worker_ended: Notify::new(),
            turns_served: Mutex::default(),
        })
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place for one request, or says why there is none. Freed by [`Queue::leave`]. Gives whether nobody else waits
    /// or is served.
    pub(super) fn enter(&self) -> Result<bool, LaneError> {
        let before = self.waiting.fetch_add(1, Ordering::SeqCst);
        if before >= self.waiting_max {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            metrics::counter!("tessera_lane_rejected_total", "queue" => self.name).increment(1);
            return Err(LaneError::Overloaded);
        }
        // Counted first, looked at second; `stop` does it the other way round, so that one of the two sees the other.
        if self.stopping.load(Ordering::SeqCst) {
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            return Err(LaneError::Stopping);
        }
        Ok(before == 0 && self.serving.load(Ordering::Relaxed) == 0)
    }

    /// A place again for a request that had one before and is still to be answered, however many there are.
    pub(super) fn enter_again(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().expect("no code panics while it holds the patience")
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Frees the places of requests that a worker took.
    pub(super) fn leave(&self, requests: usize) {
        self.waiting.fetch_sub(requests, Ordering::AcqRel);
    }

    /// Gives a bucket a turn. Called when it goes from empty to not empty, or when a worker left some in it.
    pub(super) fn push(&self, bucket: Arc<dyn Bucket>) {
        let turn = Turn { since: Instant::now(), bucket };
        {
            let mut turns = self.turns.lock().expect("no code panics while it holds the turns");
            turns.push_back(turn);
            self.tell_if_late(turns.front());
        }
        self.ready.add_permits(1);
    }

    pub(super) fn spawn_worker(self: Arc<Self>, mut conn: LaneConn) {
        let served = self.enrol();
        tokio::spawn(async move {
            // `stop` closes the semaphore only when nothing waits any more.
            while let Ok(permit) = self.ready.acquire().await {
                permit.forget();
                // Of many who were answered together the first asks again, and this task is run before the others. They
                // can run now, and join.
                tokio::task::yield_now().await;
                if let Some(turn) = self.take() {
                    self.serve(turn, &mut conn, &served).await;
                }
            }
            self.leave_work(conn).await;
        });
    }

    /// As a worker, for turns that are late.
    pub(super) fn spawn_helper(self: Arc<Self>, mut conn: LaneConn) {
        let served = self.enrol();
        tokio::spawn(async move {
            loop {
                let woken = self.late.notified();
                tokio::pin!(woken);
                // From here on `stop` wakes it; before, it has closed the semaphore.
                woken.as_mut().enable();
                if self.ready.is_closed() {
                    break;
                }
                if tokio::time::timeout(HELPER_IDLE_MAX, woken).await.is_err() {
                    conn.rest().await;
                    continue;
                }
                while let Some(turn) = self.take_late() {
                    self.serve(turn, &mut conn, &served).await;
                }
            }
            self.leave_work(conn).await;
        });
    }

    fn take(&self) -> Option<Turn> {
        let mut turns = self.turns.lock().expect("no code panics while it holds the turns");
        let turn = turns.pop_front();
        self.tell_if_late(turns.front());
        turn
    }

    fn tell_if_late(&self, next: Option<&Turn>) {
        if next.is_some_and(Turn::is_late) {
            self.late.notify_one();
        }
    }

    /// The next turn, if it is late. A permit is taken with it, or given back.
    fn take_late(&self) -> Option<Turn> {
        let permit = self.ready.try_acquire().ok()?;
        let mut turns = self.turns.lock().expect("no code panics while it holds the turns");
        let turn = turns.pop_front_if(|turn| turn.is_late())?;
        self.tell_if_late(turns.front());
        permit.forget();
        Some(turn)
    }

    fn enrol(&self) -> Arc<AtomicU64> {
        self.workers.fetch_add(1, Ordering::AcqRel);
        let served = Arc::new(AtomicU64::new(0));
        self.turns_served.lock().expect("no code panics while it holds the counts").push(Arc::clone(&served));
        served
    }

    async fn leave_work(&self, conn: LaneConn) {
        conn.close().await;
        self.workers.fetch_sub(1, Ordering::AcqRel);
        self.worker_ended.notify_one();
    }

    async fn serve(&self, turn: Turn, conn: &mut LaneConn, served: &AtomicU64) {
        served.fetch_add(1, Ordering::SeqCst);
        self.serving.fetch_add(1, Ordering::Relaxed);
        if std::panic::AssertUnwindSafe(turn.bucket.serve(conn)).catch_unwind().await.is_err() {
            // The requests of the batch learn of it by their dropped senders.
            conn.discard();
            tracing::error!(queue = self.name, "a batch of the lane panicked; its connection was closed");
        }
        self.serving.fetch_sub(1, Ordering::Relaxed);
        served.fetch_add(1, Ordering::SeqCst);
        // After the batch: who is answered does not wait for it.
        conn.renew_plans().await;
    }

    /// Waits until every batch that is being served now has ended. Others go on meanwhile.
    pub(super) async fn quiesce(&self) {
        let workers = self.turns_served.lock().expect("no code panics while it holds the counts").clone();
        for served in workers {
            let turn = served.load(Ordering::SeqCst);
            while turn % 2 == 1 && served.load(Ordering::SeqCst) == turn {
                tokio::time::sleep(QUIESCE_PAUSE).await;
            }
        }
    }

    pub(super) async fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        while self.waiting.load(Ordering::SeqCst) > 0 || self.unanswered.load(Ordering::SeqCst) > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.ready.close();
        self.late.notify_waiters();
        while self.workers.load(Ordering::Acquire) > 0 {
            self.worker_ended.notified().await;
        }
    }
}
