//! Reads: requests for the same leaf become one statement with an array of keys.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    hash::Hash,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use sqlx::PgConnection;
use tokio::sync::oneshot;

use super::{
    Cost, LaneError, LaneSettings,
    conn::{LaneConn, is_spent},
    queue::{Bucket, Queue},
    short::{Loan, Short},
};
use crate::{db::is_missing_leaf, partition::Leaf};

/// A query that finds rows by key on one leaf.
pub trait Read: Send + Sync + 'static {
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    type Row: Clone + Send + Sync + 'static;

    /// The leaf that holds the key.
    fn leaf(&self, key: &Self::Key) -> Leaf;

    /// One statement on one leaf. A key without a row is left out of the map.
    fn fetch<'c>(
        &'c self,
        conn: &'c mut PgConnection,
        leaf: Leaf,
        keys: &'c [Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Row>, sqlx::Error>> + Send + 'c;
}

type Answer<R> = Result<(Option<<R as Read>::Row>, Cost), LaneError>;
type Rows<R> = HashMap<<R as Read>::Key, <R as Read>::Row>;

/// A key that waits, and where its answer comes.
type Asked<R> = (<R as Read>::Key, oneshot::Receiver<Answer<R>>);

struct Waiting<R: Read> {
    key: R::Key,
    since: Instant,
    answer: oneshot::Sender<Answer<R>>,
}

/// The entrance of one query. Cheap to clone.
pub struct Reader<R: Read> {
    shared: Arc<Shared<R>>,
}

impl<R: Read> Clone for Reader<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<R: Read> {
    query: R,
    leaves: Mutex<HashMap<Leaf, Arc<LeafBucket<R>>>>,
    queue: Arc<Queue>,
    short: Arc<Short>,
    settings: Arc<LaneSettings>,
}

struct LeafBucket<R: Read> {
    leaf: Leaf,
    waiting: Mutex<Vec<Waiting<R>>>,
    shared: Arc<Shared<R>>,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(query: R, queue: Arc<Queue>, short: Arc<Short>, settings: Arc<LaneSettings>) -> Self {
        Self { shared: Arc::new(Shared { query, leaves: Mutex::default(), queue, short, settings }) }
    }

    /// The row of one key, with what it cost.
    ///
    /// # Errors
    /// [`LaneError`]: overloaded, unavailable, failed.
    pub async fn find(&self, key: R::Key) -> Answer<R> {
        let shared = &self.shared;
        let is_alone = shared.queue.enter()?;
        let bucket = self.bucket(shared.query.leaf(&key));
        match is_alone.then(|| shared.short.take()).flatten() {
            Some(loan) => shared.short.to_its_end(bucket.find_here(loan, key)).await,
            None => bucket.wait(key).await,
        }
    }
}

impl<R: Read> Reader<R> {
    /// The rows of many keys, one statement for each leaf that holds some of them; keys without a row are left out. All
    /// the keys of a leaf wait before it gets its turn, so only a leaf that others wait for too may need a second
    /// statement, and the cost tells.
    ///
    /// # Errors
    /// [`LaneError`], of the first leaf that fails.
    pub async fn find_many(&self, keys: Vec<R::Key>) -> Result<(HashMap<R::Key, R::Row>, Cost), LaneError> {
        let shared = &self.shared;
        let mut by_leaf: BTreeMap<Leaf, Vec<R::Key>> = BTreeMap::new();
        for key in keys {
            by_leaf.entry(shared.query.leaf(&key)).or_default().push(key);
        }
        let mut asked = Vec::with_capacity(by_leaf.len());
        for (leaf, keys) in by_leaf {
            asked.push(self.wait_for(leaf, keys)?);
        }
        let (mut rows, mut cost) = (HashMap::new(), Cost::default());
        for leaf in asked {
            // They began to wait together; those that stopped together were served by one statement.
            let mut statements: Vec<Cost> = Vec::with_capacity(1);
            for (key, answered) in leaf {
                let (row, spent) = answered.await.unwrap_or(Err(LaneError::Panicked))?;
                if let Some(row) = row {
                    rows.insert(key, row);
                }
                if statements.iter().all(|counted| counted.queue != spent.queue) {
                    statements.push(spent);
                }
            }
            statements.into_iter().for_each(|spent| cost += spent);
        }
        Ok((rows, cost))
    }

    /// Lets keys of one leaf wait, all before the leaf gets its turn.
    fn wait_for(&self, leaf: Leaf, keys: Vec<R::Key>) -> Result<Vec<Asked<R>>, LaneError> {
        let shared = &self.shared;
        let bucket = self.bucket(leaf);
        let since = Instant::now();
        let mut asked = Vec::with_capacity(keys.len());
        let was_empty = {
            let mut waiting = bucket.waiting.lock().expect("no code panics while it holds the bucket");
            let was_empty = waiting.is_empty();
            for key in keys {
                if let Err(full) = shared.queue.enter() {
                    // Those that wait already are served, and find nobody.
                    if !waiting.is_empty() && was_empty {
                        shared.queue.push(Arc::clone(&bucket) as Arc<dyn Bucket>);
                    }
                    return Err(full);
                }
                let (answer, answered) = oneshot::channel();
                waiting.push(Waiting { key: key.clone(), since, answer });
                asked.push((key, answered));
            }
            was_empty && !waiting.is_empty()
        };
        if was_empty {
            shared.queue.push(bucket);
        }
        Ok(asked)
    }

    fn bucket(&self, leaf: Leaf) -> Arc<LeafBucket<R>> {
        let shared = &self.shared;
        let mut leaves = shared.leaves.lock().expect("no code panics while it holds the leaves");
        Arc::clone(
            leaves.entry(leaf).or_insert_with(|| {
                Arc::new(LeafBucket { leaf, waiting: Mutex::default(), shared: Arc::clone(shared) })
            }),
        )
    }
}

impl<R: Read> LeafBucket<R> {
    /// Takes what waits, up to a batch, and gives the rest another turn.
    fn take(self: &Arc<Self>) -> Vec<Waiting<R>> {
        let (taken, rest) = {
            let mut waiting = self.waiting.lock().expect("no code panics while it holds the bucket");
            let rest = waiting.len().saturating_sub(self.shared.settings.read_batch_max);
            let batch = waiting.len() - rest;
            let keep = waiting.split_off(batch);
            (std::mem::replace(&mut *waiting, keep), rest)
        };
        self.shared.queue.leave(taken.len());
        if rest > 0 {
            self.shared.queue.push(Arc::clone(self) as Arc<dyn Bucket>);
        }
        let wait_max = self.shared.settings.wait_max;
        let (live, late): (Vec<_>, Vec<_>) = taken
            .into_iter()
            .filter(|waiting| !waiting.answer.is_closed())
            .partition(|waiting| waiting.since.elapsed() <= wait_max);
        for waiting in late {
            let _ = waiting.answer.send(Err(LaneError::Overloaded));
        }
        live
    }

    async fn run(&self, conn: &mut LaneConn, keys: &[R::Key]) -> Result<Rows<R>, LaneError> {
        // A read may be sent again: a connection that died while it was idle, or was told to forget its statements, must
        // not cost anyone an answer.
        for attempt in 0.. {
            let open = conn.get().await.map_err(LaneError::Unavailable)?;
            match self.run_once(open, keys).await {
                Ok(rows) => return Ok(rows),
                Err(Failed::Lost(error)) => {
                    conn.discard();
                    if attempt > 0 {
                        return Err(LaneError::Unavailable(Arc::new(error)));
                    }
                }
                Err(Failed::Late(error)) => {
                    conn.discard();
                    return Err(error);
                }
                Err(Failed::Statement(error)) => return Err(LaneError::Failed(Arc::new(error))),
            }
        }
        unreachable!("the loop above returns")
    }

    async fn run_once(&self, open: &mut PgConnection, keys: &[R::Key]) -> Result<Rows<R>, Failed> {
        let fetched = self.shared.query.fetch(open, self.leaf, keys);
        match tokio::time::timeout(self.shared.settings.batch_timeout, fetched).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(error)) if is_spent(&error) => Err(Failed::Lost(error)),
            // An id can name a day for which there is no leaf: there is no row either.
            Ok(Err(error)) if is_missing_leaf(&error) => {
                metrics::counter!("tessera_lane_missing_leaves_total").increment(1);
                Ok(HashMap::new())
            }
            Ok(Err(error)) => Err(Failed::Statement(error)),
            Err(_) => {
                let late = sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
                Err(Failed::Late(LaneError::Unavailable(Arc::new(late))))
            }
        }
    }

    /// Lets a key wait for a worker. Its place in the queue is taken.
    async fn wait(self: Arc<Self>, key: R::Key) -> Answer<R> {
        let (answer, answered) = oneshot::channel();
        let was_empty = {
            let mut waiting = self.waiting.lock().expect("no code panics while it holds the bucket");
            waiting.push(Waiting { key, since: Instant::now(), answer });
            waiting.len() == 1
        };
        if was_empty {
            Arc::clone(&self.shared).queue.push(self);
        }
        answered.await.unwrap_or(Err(LaneError::Panicked))
    }

    /// Asks for one key over the connection on loan; when that is lost, a worker.
    async fn find_here(self: Arc<Self>, mut loan: Loan, key: R::Key) -> Answer<R> {
        let asking = AssertUnwindSafe(self.ask_over(&mut loan, &key)).catch_unwind();
        match asking.await {
            Ok(Some(answer)) => answer,
            Ok(None) => {
                loan.lost();
                self.wait(key).await
            }
            Err(_) => {
                loan.conn().discard();
                tracing::error!("a lone read of the lane panicked; its connection was closed");
                Err(LaneError::Panicked)
            }
        }
    }

    /// None when the connection is lost.
    async fn ask_over(&self, loan: &mut Loan, key: &R::Key) -> Option<Answer<R>> {
        let started = Instant::now();
        let open = loan.conn().get().await.ok()?;
        match self.run_once(open, std::slice::from_ref(key)).await {
            Ok(mut rows) => {
                let cost =
                    Cost { statements: 1, leaves: 1, batch: 1, queue: Duration::ZERO, database: started.elapsed() };
                Some(Ok((rows.remove(key), cost)))
            }
            Err(Failed::Lost(_)) => None,
            Err(Failed::Late(error)) => {
                loan.conn().discard();
                Some(Err(error))
            }
            Err(Failed::Statement(error)) => Some(Err(LaneError::Failed(Arc::new(error)))),
        }
    }
}

/// Why a statement has no rows.
enum Failed {
    /// The connection is of no more use.
    Lost(sqlx::Error),
    /// It took too long; what is on the connection belongs to it still.
    Late(LaneError),
    Statement(sqlx::Error),
}

impl<R: Read> Bucket for LeafBucket<R> {
    fn serve<'c>(self: Arc<Self>, conn: &'c mut LaneConn) -> Pin<Box<dyn Future<Output = ()> + Send + 'c>> {
        Box::pin(async move {
            let batch = self.take();
            if batch.is_empty() {
                return;
            }
            let mut keys: Vec<R::Key> = Vec::with_capacity(batch.len());
            let mut seen = std::collections::HashSet::with_capacity(batch.len());
            keys.extend(batch.iter().filter(|waiting| seen.insert(&waiting.key)).map(|waiting| waiting.key.clone()));
            drop(seen);
            let started = Instant::now();
            let outcome = self.run(conn, &keys).await;
            let alone = keys.len() == 1;
            let cost = |waiting: &Waiting<R>| Cost {
                statements: 1,
                leaves: 1,
                batch: batch.len() as u32,
                queue: started - waiting.since,
                database: started.elapsed(),
            };
            match outcome {
                Ok(rows) => {
                    let costs: Vec<Cost> = batch.iter().map(cost).collect();
                    for (waiting, cost) in batch.into_iter().zip(costs) {
                        let row = rows.get(&waiting.key).cloned();
                        let _ = waiting.answer.send(Ok((row, cost)));
                    }
                }
                // One key may have poisoned the batch: each on its own, so that it fails alone.
                Err(LaneError::Failed(_)) if !alone => {
                    let costs: Vec<Cost> = batch.iter().map(cost).collect();
                    for (waiting, cost) in batch.into_iter().zip(costs) {
                        let row = self.run(conn, std::slice::from_ref(&waiting.key)).await;
                        let _ = waiting.answer.send(row.map(|mut rows| (rows.remove(&waiting.key), cost)));
                    }
                }
                Err(error) => {
                    for waiting in batch {
                        let _ = waiting.answer.send(Err(error.clone()));
                    }
                }
            }
        })
    }
}
