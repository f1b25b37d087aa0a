//! Leases of node numbers in table `id_node`.
//!
//! A lease is a window of the database's time, from the end of the previous holder's (`floor`) to `lease_until`. A
//! holder mints only milliseconds inside its window, so two holders of one node can't make the same id even if their
//! clocks disagree. Besides, a lapsed node is handed on only after a grace longer than clocks may differ
//! (500 ms each), so a new holder's clock is past its floor from the start.
//!
//! The holder judges its lease by its own monotonic clock from before it asked, and stops early by a margin. It must
//! be a fresh UUID for each process start. Statements are atomic on their own and need no transaction.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use thiserror::Error;
use uuid::Uuid;

/// Node numbers there are: 10 bits.
pub const NODES: i16 = 1024;
/// How long a lease runs from its last renewal. Renew it every third of that.
pub const LEASE_SECS: u32 = 30;
/// How long after its end a lease is handed on: twice the allowed difference of a clock from the database's, twice.
pub const LEASE_GRACE_MS: u32 = 2_000;
/// How long before the end of its lease a holder stops.
const MARGIN: Duration = Duration::from_millis(1_000);
/// Rounds of acquiring, each lost to another process, before giving up.
const ACQUIRE_ROUNDS_MAX: u32 = 64;

/// Why a lease was not got or not kept.
#[derive(Debug, Error)]
pub enum LeaseError {
    #[error("all {NODES} node numbers are held by other processes")]
    NoFreeNode,
    #[error("node {node} was handed on to another process")]
    Lost { node: i16 },
    #[error("the leases of node numbers could not be reached")]
    Database(#[from] sqlx::Error),
}

/// The right to mint with a node number for a while.
#[derive(Debug, Clone)]
pub struct NodeLease {
    node: i16,
    holder: Uuid,
    /// Start of the window: no id of an earlier holder reaches this (Unix ms, database's time).
    floor_ms: i64,
    /// End of the window, exclusive (Unix ms, database's time).
    until_ms: i64,
    /// End by this process's monotonic clock, the margin taken off.
    deadline: Instant,
}

impl NodeLease {
    /// Leases the node that has been idle longest, or a fresh one.
    ///
    /// # Errors
    /// [`LeaseError::NoFreeNode`] when every number is held, else [`LeaseError::Database`].
    pub async fn acquire(conn: &mut PgConnection, holder: Uuid) -> Result<Self, LeaseError> {
        for _ in 0..ACQUIRE_ROUNDS_MAX {
            let asked = Instant::now();
            let (grace_ms, secs) = (f64::from(LEASE_GRACE_MS), f64::from(LEASE_SECS));
            let lapsed = sqlx::query_file!("sql/queries/id_node/take_lapsed.sql", holder, grace_ms, secs);
            if let Some(row) = lapsed.fetch_optional(&mut *conn).await? {
                // The next whole millisecond: the old holder may have minted in the one `floor` lies in.
                let floor_ms = row.floor.timestamp_millis() + 1;
                return Ok(Self::new(row.node, holder, floor_ms, row.until, asked));
            }
            let asked = Instant::now();
            let fresh = sqlx::query_file!("sql/queries/id_node/take_fresh.sql", holder, secs, NODES);
            if let Some(row) = fresh.fetch_optional(&mut *conn).await? {
                return Ok(Self::new(row.node, holder, i64::MIN, row.until, asked));
            }
            let has_free = sqlx::query_file_scalar!("sql/queries/id_node/has_free.sql", i64::from(NODES));
            if !has_free.fetch_one(&mut *conn).await? {
                return Err(LeaseError::NoFreeNode);
            }
        }
        Err(LeaseError::NoFreeNode)
    }

    /// Extends the lease; hand the result to `MemberIdMinter::set_lease`.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] when another process has the node: acquire anew. [`LeaseError::Database`] otherwise: the
    /// lease runs on to its end, try again.
    pub async fn renew(&self, conn: &mut PgConnection) -> Result<Self, LeaseError> {
        let asked = Instant::now();
        let secs = f64::from(LEASE_SECS);
        let renewed = sqlx::query_file_scalar!("sql/queries/id_node/renew.sql", self.node, self.holder, secs);
        let until = renewed.fetch_optional(conn).await?.ok_or(LeaseError::Lost { node: self.node })?;
        Ok(Self::new(self.node, self.holder, self.floor_ms, until, asked))
    }

    /// Gives the node back early. `used_until_ms` is from `MemberIdMinter::stop`, after which nothing is minted.
    ///
    /// # Errors
    /// [`LeaseError::Database`]; the lease then ends by itself.
    pub async fn release(&self, conn: &mut PgConnection, used_until_ms: i64) -> Result<(), LeaseError> {
        let used_until = DateTime::from_timestamp_millis(used_until_ms).unwrap_or(DateTime::UNIX_EPOCH);
        let released = sqlx::query_file!("sql/queries/id_node/release.sql", self.node, self.holder, used_until);
        released.execute(conn).await?;
        Ok(())
    }

    fn new(node: i16, holder: Uuid, floor_ms: i64, until: DateTime<Utc>, asked: Instant) -> Self {
        let deadline = asked + Duration::from_secs(u64::from(LEASE_SECS)) - MARGIN;
        Self { node, holder, floor_ms, until_ms: until.timestamp_millis(), deadline }
    }

    /// 0 to 1023.
    pub fn node(&self) -> i16 {
        self.node
    }

    pub fn holder(&self) -> Uuid {
        self.holder
    }

    /// Whether the lease still runs by the monotonic clock.
    pub fn holds_at(&self, at: Instant) -> bool {
        at < self.deadline
    }

    pub(super) fn floor_ms(&self) -> i64 {
        self.floor_ms
    }

    pub(super) fn until_ms(&self) -> i64 {
        self.until_ms
    }

    /// A lease that no database knows, for tests and benches of what mints.
    pub fn unshared(node: i16, window_ms: std::ops::Range<i64>, asked: Instant) -> Self {
        let deadline = asked + Duration::from_secs(u64::from(LEASE_SECS)) - MARGIN;
        Self { node, holder: Uuid::nil(), floor_ms: window_ms.start, until_ms: window_ms.end, deadline }
    }
}
