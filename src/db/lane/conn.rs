//! A connection of the lane: its settings, and what happens when it is lost or what was prepared on it is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError},
};

use super::{LaneSettings, message::Names};
use crate::db::{is_connection_loss, sqlstate};

/// How long a failed connect answers for the requests that follow it, so that a dead database costs them nothing.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server that is starting is waited for, and the pause between two attempts.
const STARTING_MAX: Duration = Duration::from_millis(100);
const STARTING_PAUSE: Duration = Duration::from_millis(10);
/// The server ends no transaction that has done nothing for less than this.
const IDLE_MIN: Duration = Duration::from_secs(1);
/// Plans older than this are thrown away. One that was made while a leaf was empty may walk the whole leaf when it has
/// grown; autovacuum's analysis would end it some day, and this ends it for certain.
const PLANS_MAX_AGE: Duration = Duration::from_secs(60);

/// Generic plans, index access only: a plan made on a young, small leaf must still serve it when it has grown.
pub(super) fn with_settings(options: PgConnectOptions, settings: &LaneSettings) -> PgConnectOptions {
    let millis = |duration: Duration| duration.as_millis().to_string();
    options
        .application_name("tessera lane")
        .statement_cache_capacity(settings.statements_max)
        .disable_statement_logging()
        .options([
            ("plan_cache_mode", "force_generic_plan".to_owned()),
            ("enable_seqscan", "off".to_owned()),
            ("enable_hashjoin", "off".to_owned()),
            ("enable_mergejoin", "off".to_owned()),
            ("jit", "off".to_owned()),
            // Of arrays that are written out, as the lane writes them.
            ("array_nulls", "on".to_owned()),
            ("lock_timeout", millis(settings.lock_timeout)),
            ("statement_timeout", millis(settings.statement_timeout)),
            ("idle_in_transaction_session_timeout", millis(settings.wait_max.max(IDLE_MIN))),
        ])
}

/// True when the connection that gave this error is of no more use: it broke, the server ended it since its transaction did
/// nothing for too long (25P03), or what was prepared on it is gone (26000), is somebody else's (42P05) or gives rows of another shape since the table was altered. The last is told by the name of
/// PostgreSQL's routine: its SQLSTATE is that of much else, and its text has a language.
pub(super) fn is_spent(error: &sqlx::Error) -> bool {
    let reshaped = || {
        let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
        error.and_then(PgDatabaseError::routine) == Some("RevalidateCachedQuery")
    };
    is_connection_loss(error)
        || match sqlstate(error).as_deref() {
            Some("25P03" | "26000" | "42P05") => true,
            Some("0A000") => reshaped(),
            _ => false,
        }
}

/// True when the server is there and takes no connections yet (57P03).
fn is_starting(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("57P03")
}

/// An open connection, and the statements that it has prepared by name.
pub(super) struct LaneOpen {
    pub(super) conn: PgConnection,
    pub(super) names: Names,
}

/// One connection, opened when it is needed and thrown away when it is in doubt.
pub struct LaneConn {
    options: PgConnectOptions,
    open: Option<LaneOpen>,
    planned_at: Instant,
    failed_at: Option<(Instant, Arc<sqlx::Error>)>,
}

impl LaneConn {
    pub fn new(options: PgConnectOptions) -> Self {
        Self { options, open: None, planned_at: Instant::now(), failed_at: None }
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether [`Self::renew_plans`] has something to do.
    pub(super) fn has_old_plans(&self) -> bool {
        self.is_open() && self.planned_at.elapsed() >= PLANS_MAX_AGE
    }

    /// The open connection, or a new one.
    ///
    /// # Errors
    /// The connect error; for a short while after a failure the same one again without a new attempt.
    pub async fn get(&mut self) -> Result<&mut PgConnection, Arc<sqlx::Error>> {
        Ok(&mut self.open().await?.conn)
    }

    /// As [`LaneConn::get`], with the statements that it has prepared.
    pub(super) async fn open(&mut self) -> Result<&mut LaneOpen, Arc<sqlx::Error>> {
        if self.open.is_none() {
            if let Some((at, error)) = &self.failed_at
                && at.elapsed() < RETRY_PAUSE
                && !is_starting(error)
            {
                return Err(error.clone());
            }
            match self.connect().await {
                Ok(conn) => {
                    self.failed_at = None;
                    self.planned_at = Instant::now();
                    self.open = Some(LaneOpen { conn, names: Names::default() });
                }
                Err(error) => {
                    let error = Arc::new(error);
                    self.failed_at = Some((Instant::now(), error.clone()));
                    return Err(error);
                }
            }
        }
        Ok(self.open.as_mut().expect("it was opened above"))
    }

    /// A new connection. A server that is starting is waited for a little: another connection may have found it up.
    async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let began = Instant::now();
        loop {
            let connecting = PgConnection::connect_with(&self.options);
            let error = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(Ok(conn)) => return Ok(conn),
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            };
            if !is_starting(&error) || began.elapsed() >= STARTING_MAX {
                return Err(error);
            }
            tokio::time::sleep(STARTING_PAUSE).await;
        }
    }

    /// Forgets plans that are too old. Between batches, never in one.
    pub(super) async fn renew_plans(&mut self) {
        if !self.has_old_plans() {
            return;
        }
        let Some(open) = self.open.as_mut() else { return };
        self.planned_at = Instant::now();
        let discarded =
            tokio::time::timeout(CONNECT_TIMEOUT, sqlx::raw_sql("discard plans").execute(&mut open.conn)).await;
        if !matches!(discarded, Ok(Ok(_))) {
            self.discard();
        }
    }

    /// Ends the connection; the next request opens another.
    pub(super) async fn rest(&mut self) {
        if let Some(LaneOpen { conn, .. }) = self.open.take() {
            let _ = tokio::time::timeout(CONNECT_TIMEOUT, conn.close()).await;
        }
    }

    /// Drops the connection without a word: the server rolls back what was open on it.
    pub fn discard(&mut self) {
        self.open = None;
    }

    pub(super) async fn close(mut self) {
        self.rest().await;
    }
}
