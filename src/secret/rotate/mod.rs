//! Rotation of keys while nodes serve, until the old key is deleted.
//!
//! A key takes these steps, each a change of the secret file that every node follows within a second ([`watch`]), and
//! none is taken before every node has followed the one before. A node that does not follow stops the rotation: it is
//! named, and nothing is lost by waiting.
//!
//! **Personal data**: *add* (all can read it) → *use* (all write it) → *rotate* (what is stored is written again) →
//! *drop* (after a walk over everything has found nothing of the old key).
//!
//! **Identifiers** (the blind key of `member_key`): *add*, idle (whoever deletes an identifier deletes its row of this
//! version too, so that no node leaves one behind that another has written) → *rotate*: activated (all write rows of
//! both versions), then the missing rows are made from the base → *use* (look-ups go by it) → *rotate*: the logins'
//! own keys are written again, the old version is idled (nobody writes it) and its rows are deleted → *drop*.
//!
//! After a node has said that it follows, and after every transaction that was open then has ended, nothing is written
//! as before. Hence the rule for whoever encrypts or blinds: do it in a write of the lane, or in a transaction that has
//! written or locked something already.
//!
//! Everything can be killed and asked again: a step of the file is whole or not done, and walks go on where they
//! stopped. One command on keys runs at a time. A node that was stopped for longer than its lease (a suspended machine) is not
//! seen; it follows within a second of waking. Backups made before a rotation need the old secret file.
//!
//! Check keys of coupon codes are added from a day to come on and never dropped.
//!
//! [`watch`]: super::watch

mod blind;
mod nodes;
mod pieces;
mod pii;
mod progress;
mod steps;
mod turn;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};

pub use self::{blind::Versions, pii::Uses, steps::KeyKind};
use super::{SecretFileError, Secrets, columns};
use crate::{
    clock::Clock,
    db::{
        sqlstate,
        tx::{self, Mode, database_cause},
    },
    partition::{Leaf, plan, query},
};

/// Rows looked at in one statement.
const WALK_ROWS: i64 = 2_000;
const PROGRESS_EVERY: Duration = Duration::from_secs(5);
/// Names the lock that a command on keys holds: the letters "tesskeys".
const LOCK: i64 = 0x7465_7373_6b65_7973;
/// How often a chunk is tried whose rows somebody else has locked.
const LOCKED_TRIES: u32 = 20;

/// How hard to work beside the tills, and how long to wait for nodes.
#[derive(Debug, Clone, clap::Args)]
pub struct Pace {
    /// Rows written in a second at most; 0 is as fast as it goes.
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub rows_per_second: u32,
    /// Rows of one transaction.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub chunk_rows: u32,
    /// Seconds to wait for nodes to follow, and for open transactions to end.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub patience: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows_per_second: 5_000, chunk_rows: 200, patience: 60 }
    }
}

/// Why a rotation stopped. It can be asked again.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("a transaction failed")]
    Transaction(#[from] tx::Error),
    #[error(transparent)]
    Secrets(#[from] SecretFileError),
    /// A rule of this module stands against it; says which.
    #[error("{0}")]
    Refused(String),
    #[error("inconsistent: {0}")]
    Inconsistent(String),
}

/// One rotation at work, on a connection of its own.
pub struct Run<'a> {
    conn: PgConnection,
    secrets: Arc<Secrets>,
    clock: Clock,
    pace: Pace,
    sink: &'a mut dyn FnMut(&str),
    told: Instant,
}

impl<'a> Run<'a> {
    /// Connects as the service. `secrets` know their source; `sink` gets what people may want to read.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn open(
        options: PgConnectOptions,
        secrets: Arc<Secrets>,
        clock: Clock,
        pace: Pace,
        sink: &'a mut dyn FnMut(&str),
    ) -> Result<Self, RotateError> {
        columns::check().map_err(RotateError::Refused)?;
        secrets.refresh()?;
        let conn = with_settings(options).connect().await?;
        Ok(Self { conn, secrets, clock, pace, sink, told: Instant::now() })
    }

    /// Ends the connection.
    pub async fn close(self) {
        // The server notices a closed socket as well.
        let _ = self.conn.close().await;
    }

    /// Keeps other commands on keys away until the connection ends. May be asked again by who has it.
    async fn alone(&mut self) -> Result<(), RotateError> {
        let got: bool =
            sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(LOCK).fetch_one(&mut self.conn).await?;
        if !got {
            let why = "another `tessera keys` is at work on this database; wait for it";
            return Err(RotateError::Refused(why.to_owned()));
        }
        // What the last one did before it let go.
        self.secrets.refresh()?;
        Ok(())
    }

    fn tell(&mut self, text: &str) {
        (self.sink)(text);
    }

    fn tell_progress(&mut self, text: &str) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            (self.sink)(text);
        }
    }

    /// Rests as long as so many rows may take.
    async fn throttle(&self, rows: u64) {
        if self.pace.rows_per_second > 0 {
            tokio::time::sleep(Duration::from_secs_f64(rows as f64 / f64::from(self.pace.rows_per_second))).await;
        }
    }

    /// A transaction that gives way: when a row stays locked by others it lets go of all and comes again.
    async fn patiently<T>(
        &mut self,
        name: &'static str,
        body: impl AsyncFnOnce(&mut PgConnection, &Secrets) -> Result<T, RotateError> + Clone,
    ) -> Result<T, RotateError> {
        let secrets = &*self.secrets;
        let mut tries = 1;
        loop {
            let body = body.clone();
            let outcome =
                tx::run_on(&mut self.conn, name, Mode::ReadCommitted, async move |conn: &mut PgConnection| {
                    body(conn, secrets).await
                })
                .await;
            let locked = |error: &RotateError| database_cause(error).and_then(sqlstate).as_deref() == Some("55P03");
            match outcome {
                Err(error) if locked(&error) && tries < LOCKED_TRIES => tries += 1,
                outcome => return outcome,
            }
        }
    }
}

/// By index always, as on the lane, and never long in anybody's way.
fn with_settings(options: PgConnectOptions) -> PgConnectOptions {
    options.application_name("tessera keys").statement_cache_capacity(256).disable_statement_logging().options([
        ("plan_cache_mode", "force_custom_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "1000"),
        ("idle_in_transaction_session_timeout", "60000"),
    ])
}

fn name_of(table: &str, piece: Option<Leaf>) -> String {
    piece.map_or_else(|| table.to_owned(), |leaf| leaf.to_string())
}

/// Locks members of one leaf, whose ids ascend, against changes of what is theirs.
async fn locked_members(conn: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    let Some(first) = ids.first() else { return Ok(()) };
    let leaf = plan("member").leaf_i64(*first);
    debug_assert!(ids.is_sorted() && ids.iter().all(|id| plan("member").leaf_i64(*id) == leaf));
    sqlx::query(query("rotate/member_lock").on(&[leaf])).bind(ids).fetch_all(conn).await?;
    Ok(())
}
