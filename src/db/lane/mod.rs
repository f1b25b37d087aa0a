//! The lane: the hot path to the partitioned tables.
//!
//! What a till or a member waits for goes through a few connections of the lane's own. Requests that wait while those
//! are busy form the next batch, so a lone till waits for nobody and a rush shares round trips and commits; a read that
//! finds nobody else there does not even change tasks (`short`). Reads for the same leaf become one statement
//! ([`mod@read`]); writes become one transaction ([`mod@write`]), whose statements go to the server in as few messages as
//! what they need to know of each other allows (`message`).
//!
//! Invariants:
//! - A batch belongs to the lane, never to the handler that asked: a till that resets its connection cancels nothing.
//! - No connection is handed on with an open transaction: one that could not be rolled back is closed. So is one whose
//!   prepared statements are gone or stale; what met that is sent again on a new one.
//! - Queues are bounded. When one is full the caller gets [`LaneError::Overloaded`] at once; what waited longer than
//!   `wait_max` is answered the same, or [`LaneError::Busy`], and was not executed.
//! - Once COMMIT may have been executed nothing is executed again; the outcome is looked up by request number.
//! - What one request must wait for, its neighbours in a batch do not: it is put aside. A row of counters, which all
//!   requests of a rule need, is waited for at first: by a batch, for `lock_timeout` at most.
//!
//! It does not hold office tables: rules, stores and keys go through `db::pool`.

mod conn;
mod message;
mod queue;
pub mod read;
mod short;
mod tx;
pub mod write;

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgConnectOptions;

pub use self::{
    conn::LaneConn,
    message::{Column, Statement},
    read::{Read, Reader},
    tx::{Target, Tx, column, expect_rows},
    write::{WriteError, Writer, WriterHandle},
};
use self::{queue::Queue, short::Short};

/// Sizes and bounds of a lane.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Connections that read, besides one for reads that find nobody else there.
    pub read_connections: usize,
    /// Connections that read when those do not keep up, as when each read waits for the disk.
    pub read_connections_max: usize,
    /// Connections that write. Two on two cores: more only thin the batches, unless they wait for the disk.
    pub write_connections: usize,
    /// Keys in one read statement.
    pub read_batch_max: usize,
    /// Requests in one write transaction; 1 turns batching off.
    pub write_batch_max: usize,
    /// Requests that may wait, for reads and for writes each.
    pub queue_max: usize,
    /// Up to so many leaves a write statement addresses them one by one; above it goes through the parent.
    pub leaves_max: usize,
    /// Prepared statements kept per connection, of those that go together and of those that go alone each: about 35 KiB
    /// each in the backend.
    pub statements_max: usize,
    /// What waited longer is answered `Overloaded` or `Busy`, unexecuted. A transaction that does nothing for so long, and
    /// for a second, is ended by the server: its node stands still, and others wait for what it holds.
    pub wait_max: Duration,
    /// Bound on one batch, seen from this side of the connection.
    pub batch_timeout: Duration,
    /// Server-side bounds.
    pub lock_timeout: Duration,
    pub statement_timeout: Duration,
}

impl Default for LaneSettings {
    fn default() -> Self {
        Self {
            read_connections: 4,
            read_connections_max: 16,
            write_connections: 2,
            read_batch_max: 256,
            write_batch_max: 64,
            queue_max: 4096,
            leaves_max: 6,
            statements_max: 512,
            wait_max: Duration::from_secs(3),
            batch_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_millis(500),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

/// Why the lane has no answer. Cloned to every request of a batch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LaneError {
    /// More waits than the queue holds, or this waited too long. Nothing was executed.
    #[error("the lane has more work waiting than it can do")]
    Overloaded,
    /// Somebody else held what this needs for all the time that it may wait. Nothing was executed.
    #[error("somebody else has held what this needs for too long")]
    Busy,
    /// The database does not answer. Nothing was executed, or it was rolled back.
    #[error("the database does not answer")]
    Unavailable(#[source] Arc<sqlx::Error>),
    /// The connection broke after COMMIT was sent, and the look-up failed or found nothing.
    #[error("the outcome of the transaction could not be learnt")]
    OutcomeUnknown,
    /// The statement itself failed: a defect of ours or of the data.
    #[error("a statement of the lane failed")]
    Failed(#[source] Arc<sqlx::Error>),
    /// A row that cannot be.
    #[error("{0}")]
    Inconsistent(Arc<str>),
    /// The lane is shutting down.
    #[error("the service is stopping")]
    Stopping,
    /// A batch panicked; its transaction was thrown away.
    #[error("a batch of the lane panicked")]
    Panicked,
}

/// What an answer cost, summed over the statements that served it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub statements: u32,
    /// Leaves touched, counted once per statement.
    pub leaves: u32,
    /// Requests that shared the statements.
    pub batch: u32,
    pub queue: Duration,
    pub database: Duration,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.statements += other.statements;
        self.leaves += other.leaves;
        self.batch = self.batch.max(other.batch);
        self.queue += other.queue;
        self.database += other.database;
    }
}

/// The lane of one process. Cheap to clone.
#[derive(Clone)]
pub struct Lane {
    settings: Arc<LaneSettings>,
    reads: Arc<Queue>,
    writes: Arc<Queue>,
    short: Arc<Short>,
}

impl Lane {
    /// Starts the workers. They connect when the first request comes, so a database that is away does not stop a start.
    pub fn start(connect: PgConnectOptions, settings: LaneSettings) -> Self {
        let connect = conn::with_settings(connect, &settings);
        let reads = Queue::new("read", settings.queue_max);
        let lane = Self {
            short: Short::new(LaneConn::new(connect.clone()), Arc::clone(&reads)),
            reads,
            writes: Queue::new("write", settings.queue_max),
            settings: Arc::new(settings),
        };
        for (queue, workers) in
            [(&lane.reads, lane.settings.read_connections), (&lane.writes, lane.settings.write_connections)]
        {
            for _ in 0..workers {
                Arc::clone(queue).spawn_worker(LaneConn::new(connect.clone()));
            }
        }
        for _ in lane.settings.read_connections..lane.settings.read_connections_max {
            Arc::clone(&lane.reads).spawn_helper(LaneConn::new(connect.clone()));
        }
        lane
    }

    /// A typed entrance for one read query.
    pub fn reader<R: Read>(&self, query: R) -> Reader<R> {
        Reader::new(query, Arc::clone(&self.reads), Arc::clone(&self.short), Arc::clone(&self.settings))
    }

    /// A typed entrance for one kind of write.
    pub fn writer<W: Writer>(&self, writer: W) -> WriterHandle<W> {
        WriterHandle::new(writer, Arc::clone(&self.writes), Arc::clone(&self.settings))
    }

    /// Requests waiting now, reads and writes; a read that found nobody else counts until it is answered.
    pub fn waiting(&self) -> (usize, usize) {
        (self.reads.waiting(), self.writes.waiting())
    }

    /// Waits until every write that has begun has ended, so that what was changed in memory before is known to all that
    /// are still to end. At most `batch_timeout` and its retries.
    pub async fn quiesce(&self) {
        self.writes.quiesce().await;
    }

    /// Refuses new requests, finishes what waits, closes the connections.
    pub async fn stop(&self) {
        self.reads.stop().await;
        self.short.close().await;
        self.writes.stop().await;
    }
}
