//! The office: a bounded pool of connections for tables that are not partitioned, and for read-only reports.
//!
//! deadpool over `PgConnection`, without sqlx's ping at every acquire and release. What keeps that safe:
//! - A connection is never handed on with something pending or a transaction open. [`OfficeConn`] settles it when it is
//!   given back (so that locks go at once, not when the next one comes), and the manager does so again before reuse.
//! - One that rested for `PING_AFTER` is pinged, so that a restart of the database is met by the pool, not by a
//!   caller.
//! - One connection found dead puts all that are as old under suspicion: they are pinged before their next use.
//!
//! This module does not begin transactions (`tx` does) and knows nothing of the lane.

use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use deadpool::managed::{self, Metrics, Object, PoolError, QueueMode, RecycleError, RecycleResult, TimeoutType};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, postgres::PgConnectOptions};

use crate::problem::Code;

/// A connection that rested this long is pinged before it is handed out.
const PING_AFTER: Duration = Duration::from_secs(1);
/// A connection that cannot be settled within this time is closed; the server then ends what it was doing.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// What can go wrong between us and the database, as far as a caller's answer depends on it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made, or it broke before anything was committed. Nothing was done.
    #[error("the database cannot be reached")]
    Unavailable(#[source] sqlx::Error),
    /// Every connection is in use and the queue is full or did not move in time. Nothing was done.
    #[error("every database connection is in use")]
    Busy,
    /// COMMIT was sent and no answer came: it has happened or it has not. Ask by request number; do not do it again.
    #[error("the outcome of the transaction could not be learnt")]
    OutcomeUnknown(#[source] sqlx::Error),
    /// The database answered with an error.
    #[error("the database refused a statement")]
    Query(#[source] sqlx::Error),
}

impl Error {
    /// The code of the API that goes with it.
    pub fn code(&self) -> Code {
        match self {
            Self::Unavailable(_) => Code::Unavailable,
            Self::Busy => Code::Overloaded,
            Self::OutcomeUnknown(_) => Code::OutcomeUnknown,
            Self::Query(_) => Code::Internal,
        }
    }

    /// SQLSTATE, where the database gave one.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Unavailable(e) | Self::OutcomeUnknown(e) | Self::Query(e) => sqlstate(e),
            Self::Busy => None,
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if is_connection_loss(&error) { Self::Unavailable(error) } else { Self::Query(error) }
    }
}

/// SQLSTATE of an error that the database itself answered.
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

/// True when a leaf that was named does not exist: of a time without one, or retired.
pub fn is_missing_leaf(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("42P01")
}

/// The table or leaf that refused a row: one of another leaf, one of a month that is put away, one without a leaf.
pub fn refused_by(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error().filter(|error| error.code().as_deref() == Some("23514"))?;
    // A row without a leaf breaks a constraint that has no name; any other check is the row's own fault.
    error.constraint().is_none_or(|name| name.ends_with("_fence")).then(|| error.table())?
}

/// True when the connection that gave this error must not be used again.
pub fn is_connection_loss(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(_) => sqlstate(error).is_some_and(|code| {
            // 57P01..57P04: shut down, crashed, starting up, database dropped. 53300: no slot was free.
            code.starts_with("08") || code.starts_with("57P0") || code == "53300"
        }),
        _ => false,
    }
}

/// How large the office is and how long it waits.
#[derive(Debug, Clone)]
pub struct OfficeSettings {
    pub connections_max: usize,
    /// Callers that may wait for a connection; one more is refused at once with [`Error::Busy`].
    pub waiting_max: usize,
    pub wait_max: Duration,
    pub connect_max: Duration,
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
}

impl Default for OfficeSettings {
    fn default() -> Self {
        Self {
            connections_max: 8,
            waiting_max: 256,
            wait_max: Duration::from_secs(2),
            connect_max: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

/// A pool of connections; clones share it.
#[derive(Clone)]
pub struct Office {
    pool: managed::Pool<Manager>,
    waiting_max: usize,
}

impl Office {
    /// Makes the pool. No connection is made before the first [`Office::get`].
    pub fn new(options: PgConnectOptions, settings: &OfficeSettings) -> Self {
        let options = options
            .application_name("tessera office")
            .options([
                ("statement_timeout", settings.statement_timeout.as_millis()),
                ("lock_timeout", settings.lock_timeout.as_millis()),
                // A net below the guard: the server ends what we forgot.
                ("idle_in_transaction_session_timeout", Duration::from_secs(60).as_millis()),
            ])
            .disable_statement_logging();
        let manager = Manager { options, suspect_before: Arc::default() };
        let pool = managed::Pool::builder(manager)
            .max_size(settings.connections_max.max(1))
            // Last in, first out: a quiet office lets the others rest, and they are pinged before use.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(settings.wait_max))
            .create_timeout(Some(settings.connect_max))
            .recycle_timeout(Some(SETTLE_MAX))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("the pool has timeouts and a runtime, which is all that `build` checks");
        Self { pool, waiting_max: settings.waiting_max }
    }

    /// A connection that is clean and, as far as can be known without asking, alive.
    ///
    /// # Errors
    /// [`Error::Busy`] when none is free in time or too many wait, [`Error::Unavailable`] when none can be made.
    pub async fn get(&self) -> Result<OfficeConn, Error> {
        let status = self.pool.status();
        if status.size >= status.max_size && status.waiting >= self.waiting_max {
            metrics::counter!("tessera_office_refused_total").increment(1);
            return Err(Error::Busy);
        }
        match self.pool.get().await {
            Ok(object) => Ok(OfficeConn { object: Some(object) }),
            Err(PoolError::Timeout(TimeoutType::Wait)) => {
                metrics::counter!("tessera_office_refused_total").increment(1);
                Err(Error::Busy)
            }
            Err(PoolError::Backend(error)) => Err(Error::Unavailable(error)),
            Err(PoolError::Timeout(_)) => Err(Error::Unavailable(sqlx::Error::PoolTimedOut)),
            Err(PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
                Err(Error::Unavailable(sqlx::Error::PoolClosed))
            }
        }
    }

    /// Connections that exist, and callers that wait.
    pub fn load(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.waiting)
    }

    /// Refuses new callers and closes connections as they come back.
    pub fn close(&self) {
        self.pool.close();
    }
}

/// One connection of the office. Use it as `&mut *conn`; it goes back when it is dropped.
pub struct OfficeConn {
    object: Option<Object<Manager>>,
}

/// A pooled connection with what sqlx does not tell about it.
pub struct Session {
    conn: PgConnection,
    /// A transaction was begun by `tx` and has not been seen to end. sqlx's own count starts only when BEGIN was
    /// answered, so a future dropped while it waits for that answer would leave a transaction nobody knows of.
    unsettled: bool,
    broken: bool,
    rested_since: Instant,
}

impl Session {
    fn is_dirty(&self) -> bool {
        self.unsettled || self.conn.is_in_transaction() || self.conn.should_flush()
    }

    /// Waits for what was sent, then ends the transaction if there is one.
    async fn settle(&mut self) -> Result<(), sqlx::Error> {
        self.conn.flush().await?;
        if self.unsettled || self.conn.is_in_transaction() {
            self.conn.execute("rollback").await?;
            self.unsettled = false;
        }
        if self.conn.is_in_transaction() {
            return Err(sqlx::Error::Protocol("a transaction stayed open after its rollback".into()));
        }
        Ok(())
    }
}

impl OfficeConn {
    fn session(&mut self) -> &mut Session {
        self.object.as_mut().expect("the object is taken only in drop")
    }

    /// `tx` says here that a transaction begins, and that it has been seen to end.
    pub(super) fn set_unsettled(&mut self, unsettled: bool) {
        self.session().unsettled = unsettled;
    }

    /// The connection gave an error after which it must not be used again; those as old are suspect.
    pub(super) fn set_broken(&mut self) {
        self.session().broken = true;
        if let Some(object) = &self.object
            && let Some(pool) = Object::pool(object)
        {
            pool.manager().suspect();
        }
    }
}

impl Deref for OfficeConn {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.object.as_ref().expect("the object is taken only in drop").conn
    }
}

impl DerefMut for OfficeConn {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.session().conn
    }
}

impl Drop for OfficeConn {
    fn drop(&mut self) {
        let Some(mut object) = self.object.take() else { return };
        object.rested_since = Instant::now();
        if object.broken {
            drop(Object::take(object));
            return;
        }
        if !object.is_dirty() {
            return;
        }
        // A transaction was dropped halfway. Its locks must not wait for the next caller.
        metrics::counter!("tessera_office_rolled_back_total").increment(1);
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(async move {
                    match tokio::time::timeout(SETTLE_MAX, object.settle()).await {
                        Ok(Ok(())) => drop(object),
                        Ok(Err(_)) | Err(_) => drop(Object::take(object)),
                    }
                });
            }
            // Outside a runtime the socket is closed, and the server rolls back.
            Err(_) => drop(Object::take(object)),
        }
    }
}

/// Makes connections and sees that none is handed on unsettled.
pub struct Manager {
    options: PgConnectOptions,
    /// Connections that have not been seen alive since then are pinged.
    suspect_before: Arc<Mutex<Option<Instant>>>,
}

impl Manager {
    fn suspect(&self) {
        *self.suspect_before.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_suspect(&self, session: &Session) -> bool {
        let suspect_before = *self.suspect_before.lock().unwrap_or_else(PoisonError::into_inner);
        session.rested_since.elapsed() >= PING_AFTER || suspect_before.is_some_and(|at| session.rested_since <= at)
    }
}

impl managed::Manager for Manager {
    type Type = Session;
    type Error = sqlx::Error;

    async fn create(&self) -> Result<Session, sqlx::Error> {
        let conn = self.options.connect().await?;
        Ok(Session { conn, unsettled: false, broken: false, rested_since: Instant::now() })
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<sqlx::Error> {
        if session.broken {
            return Err(RecycleError::message("the connection is broken"));
        }
        let outcome = async {
            session.settle().await?;
            if self.is_suspect(session) { session.conn.ping().await } else { Ok(()) }
        }
        .await;
        outcome.map_err(|error| {
            self.suspect();
            RecycleError::Backend(error)
        })
    }
}
