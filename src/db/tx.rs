//! Transactions of the office: named, timed, retried. Besides the lane, nothing else begins one.
//!
//! A body may run more than once, so it has no effects outside the database. Before COMMIT is sent, a serialization
//! failure (40001), a deadlock (40P01), a shutdown (57P01) and a lost connection (08xxx, a broken socket) run it again,
//! at most [`ATTEMPTS_MAX`] times. Once COMMIT is sent, a lost connection is [`Error::OutcomeUnknown`] and is never
//! retried here: the caller asks by request number.
//!
//! BEGIN and COMMIT are sent as statements of our own: sqlx counts a transaction only when BEGIN was answered, so
//! a future dropped in between would hand on an open transaction. `pool` settles by a mark set before BEGIN is sent.

use std::{
    error::Error as StdError,
    time::{Duration, Instant},
};

use sqlx::{Executor, PgConnection};

pub use super::pool::Error;
use super::pool::{Office, is_connection_loss, sqlstate};

/// How often a body is run at most.
pub const ATTEMPTS_MAX: u32 = 5;
/// Pause before the second attempt; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(5);

/// What the transaction sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    #[default]
    ReadCommitted,
    RepeatableRead,
    /// One snapshot, nothing written: for comparing tables.
    Snapshot,
}

impl Mode {
    const fn begin(self) -> &'static str {
        match self {
            Self::ReadCommitted => "begin isolation level read committed read write",
            Self::RepeatableRead => "begin isolation level repeatable read read write",
            Self::Snapshot => "begin isolation level repeatable read read only",
        }
    }
}

/// Runs `body` in a READ COMMITTED transaction on a connection of the office and commits.
///
/// Write `async move |conn: &mut PgConnection| { … }`; what it takes along is cloned for each attempt (references are
/// free). An `AsyncFnMut` would lend its captures to the future, which then cannot be spawned.
///
/// `name` stands in metrics and logs. The body's error type keeps the `sqlx::Error` in its source chain, by which it is
/// decided whether to run again.
///
/// # Errors
/// The body's own (rolled back), or [`Error`] for what happened around it.
pub async fn run<T, E>(
    office: &Office,
    name: &'static str,
    body: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E> + Clone,
) -> Result<T, E>
where
    E: From<Error> + StdError + 'static,
{
    run_as(office, name, Mode::ReadCommitted, body).await
}

/// As [`run`], in the given mode.
///
/// # Errors
/// As [`run`].
pub async fn run_as<T, E>(
    office: &Office,
    name: &'static str,
    mode: Mode,
    body: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E> + Clone,
) -> Result<T, E>
where
    E: From<Error> + StdError + 'static,
{
    let started = Instant::now();
    let mut attempt = 1;
    let (outcome, result) = loop {
        let mut conn = office.get().await?;
        conn.set_unsettled(true);
        let failed = match once(&mut conn, mode, body.clone()).await {
            Ok(value) => {
                conn.set_unsettled(false);
                break ("committed", Ok(value));
            }
            Err(failed) => failed,
        };
        if failed.settled {
            conn.set_unsettled(false);
        }
        if failed.lost {
            conn.set_broken();
        }
        drop(conn);
        if !failed.again || attempt == ATTEMPTS_MAX {
            break (failed.outcome, Err(failed.error));
        }
        metrics::counter!("tessera_tx_retries_total", "tx" => name).increment(1);
        tracing::debug!(tx = name, attempt, "running a transaction again");
        pause(attempt).await;
        attempt += 1;
    };
    observe(name, outcome, started);
    result
}

/// As [`run_as`] on a connection of the caller's own (upkeep, verify, migrate). Conflicts are retried, a lost connection
/// is not: it is the caller's. A caller that drops this future drops the connection too.
///
/// # Errors
/// As [`run`].
pub async fn run_on<T, E>(
    conn: &mut PgConnection,
    name: &'static str,
    mode: Mode,
    body: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E> + Clone,
) -> Result<T, E>
where
    E: From<Error> + StdError + 'static,
{
    let started = Instant::now();
    let mut attempt = 1;
    let (outcome, result) = loop {
        match once(conn, mode, body.clone()).await {
            Ok(value) => break ("committed", Ok(value)),
            Err(failed) if failed.again && !failed.lost && failed.settled && attempt < ATTEMPTS_MAX => {
                metrics::counter!("tessera_tx_retries_total", "tx" => name).increment(1);
                pause(attempt).await;
                attempt += 1;
            }
            Err(failed) => break (failed.outcome, Err(failed.error)),
        }
    };
    observe(name, outcome, started);
    result
}

/// An attempt that did not commit, and what follows from it.
struct Failed<E> {
    error: E,
    outcome: &'static str,
    again: bool,
    /// The rollback was answered: the connection is clean.
    settled: bool,
    lost: bool,
}

async fn once<T, E>(
    conn: &mut PgConnection,
    mode: Mode,
    body: impl AsyncFnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, Failed<E>>
where
    E: From<Error> + StdError + 'static,
{
    if let Err(error) = conn.execute(mode.begin()).await {
        return Err(before_commit(conn, Error::from(error).into()).await);
    }
    let value = match body(conn).await {
        Ok(value) => value,
        Err(error) => return Err(before_commit(conn, error).await),
    };
    // Deferred constraints speak here, while the outcome is still certain; and a body that swallowed an error is found
    // out (25P02), which COMMIT would answer with a silent rollback.
    if let Err(error) = conn.execute("set constraints all immediate").await {
        return Err(before_commit(conn, Error::from(error).into()).await);
    }
    match conn.execute("commit").await {
        Ok(_) => Ok(value),
        // A refusal that is not a loss is an answer: PostgreSQL has rolled back.
        Err(error) if !is_connection_loss(&error) => Err(before_commit(conn, Error::Query(error).into()).await),
        Err(error) => Err(Failed {
            error: Error::OutcomeUnknown(error).into(),
            outcome: "unknown",
            again: false,
            settled: false,
            lost: true,
        }),
    }
}

async fn before_commit<E: StdError + 'static>(conn: &mut PgConnection, error: E) -> Failed<E> {
    let cause = database_cause(&error);
    let lost = cause.is_some_and(is_connection_loss);
    let again = cause.is_some_and(is_transient);
    let settled = !lost && conn.execute("rollback").await.is_ok();
    Failed { error, outcome: "rolled_back", again, settled, lost: lost || !settled }
}

/// The database error in an error's source chain.
pub fn database_cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e sqlx::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<sqlx::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// True for what may be run again as long as COMMIT was not sent.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match sqlstate(error).as_deref() {
        Some("40001" | "40P01" | "57P01") => true,
        Some(code) => code.starts_with("08"),
        None => matches!(error, sqlx::Error::Io(_)),
    }
}

async fn pause(attempt: u32) {
    tokio::time::sleep(PAUSE_FIRST * 2_u32.pow(attempt.min(8) - 1)).await;
}

fn observe(name: &'static str, outcome: &'static str, started: Instant) {
    metrics::histogram!("tessera_tx_seconds", "tx" => name, "outcome" => outcome).record(started.elapsed());
}
