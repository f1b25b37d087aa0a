//! How a leaf comes to be: made like its parent, given its rights, attached.
//!
//! Invariants:
//! - one process at a time changes partitions, by an advisory lock that is polled: waiting inside the lock call would
//!   hold a snapshot, for which a concurrent index build waits in turn;
//! - nothing queues behind a long reader, where it would stop every writer after it: each statement gives up its lock
//!   request after [`LOCK_TIMEOUT_MS`] and is tried again;
//! - every step can be repeated, so what a crash left half-made is completed by the next run.
//!
//! Statements here are built from the names of plans, which are identifiers by the plan's own check; no value of a
//! caller reaches them.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row};
use tokio::time::Instant;

use super::plan::{Plan, Plans};
use super::router::Leaf;

/// Reads and writes rows; can neither create nor drop.
pub const SERVICE_ROLE: &str = "tessera_service";
/// Reads only, and not every table.
pub const REPORT_ROLE: &str = "tessera_report";

const UPKEEP_LOCK: i64 = 0x7465_7373_6572_6100; // "tessera" and a zero
const LOCK_TIMEOUT_MS: u64 = 100;
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LAST: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum DdlError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("another process holds the upkeep lock")]
    Busy,
    #[error("role {0} does not exist: run `tessera migrate`")]
    RoleMissing(&'static str),
    #[error("table {0} does not exist or is not partitioned: run `tessera migrate`")]
    ParentMissing(String),
    #[error("{leaf} is not what the plan makes of it: {problem}")]
    Foreign { leaf: String, problem: String },
    #[error("inconsistent: {table} {key}: {problem}")]
    Inconsistent { table: &'static str, key: String, problem: &'static str },
}

/// A connection of its own that holds the upkeep lock until it is closed.
pub struct Locked {
    conn: PgConnection,
    patience: Duration,
}

/// What was done for a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeafOutcome {
    Created,
    /// An earlier run had made it and not attached it.
    PickedUp,
    Existing,
    /// It was retired, and the past is not made again.
    Retired,
}

/// A partition as the catalogue has it.
#[derive(Debug, Clone)]
pub struct Attached {
    pub name: String,
    /// None when the name is not one of the plan's, as that of a retired leaf before it is detached.
    pub leaf: Option<Leaf>,
    /// A `detach concurrently` was begun and not finished.
    pub detaching: bool,
    /// Service and reports have the rights that the plan gives them, no fewer and no more.
    pub granted: bool,
    pub fenced: bool,
    pub comment: Option<String>,
    bound: String,
}

impl Locked {
    /// Connects, becomes the owner of the tables, and waits for the lock. `patience` bounds this wait and, later, that of
    /// each statement for its own locks.
    ///
    /// # Errors
    /// `Busy` when the lock is not to be had in time, `RoleMissing` and `ParentMissing` before any change.
    pub async fn open(options: &PgConnectOptions, plans: &Plans, patience: Duration) -> Result<Self, DdlError> {
        let options = options.clone().application_name("tessera upkeep").statement_cache_capacity(0);
        let conn = options.connect().await?;
        let mut db = Self { conn, patience };
        db.settings().await?;
        db.become_owner(plans).await?;
        let deadline = Instant::now() + patience;
        let mut pause = RETRY_FIRST;
        loop {
            let got: bool =
                sqlx::query_scalar("select pg_try_advisory_lock($1)").bind(UPKEEP_LOCK).fetch_one(&mut db.conn).await?;
            if got {
                return Ok(db);
            }
            if Instant::now() >= deadline {
                return Err(DdlError::Busy);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.conn
    }

    /// Gives the lock back by ending the session.
    ///
    /// # Errors
    /// When the server could not be told; the lock goes with the connection all the same.
    pub async fn close(self) -> Result<(), DdlError> {
        Ok(self.conn.close().await?)
    }

    /// Runs a statement, again when it did not get its locks or lost a deadlock, until patience ends.
    pub(super) async fn run(&mut self, statement: &str) -> Result<(), DdlError> {
        let deadline = Instant::now() + self.patience;
        let mut pause = RETRY_FIRST;
        loop {
            match sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.conn).await {
                Ok(_) => return Ok(()),
                Err(error) if is_contention(&error) && Instant::now() < deadline => {
                    tracing::debug!(statement, %error, "waiting for a lock");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Runs a statement that waits for old transactions without standing in anyone's way (`create index concurrently`).
    pub(super) async fn run_waiting(&mut self, statement: &str) -> Result<(), DdlError> {
        sqlx::raw_sql("set lock_timeout = 0").execute(&mut self.conn).await?;
        let outcome = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut self.conn).await;
        self.settings().await?;
        outcome?;
        Ok(())
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    async fn settings(&mut self) -> Result<(), DdlError> {
        let settings = format!(
            "set lock_timeout = {LOCK_TIMEOUT_MS}; set statement_timeout = 0; set client_min_messages = warning; \
             set plan_cache_mode = force_custom_plan; set vacuum_cost_delay = 2"
        );
        sqlx::raw_sql(AssertSqlSafe(settings)).execute(&mut self.conn).await?;
        Ok(())
    }

    /// Leaves must belong to the owner of their parents, or a later migration could not change them.
    async fn become_owner(&mut self, plans: &Plans) -> Result<(), DdlError> {
        for role in [SERVICE_ROLE, REPORT_ROLE] {
            let known: bool = sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)")
                .bind(role)
                .fetch_one(&mut self.conn)
                .await?;
            if !known {
                return Err(DdlError::RoleMissing(role));
            }
        }
        let mut become_owner = None;
        for plan in plans.iter() {
            let owner: Option<Option<String>> = sqlx::query_scalar(
                "select case when pg_get_userbyid(relowner) <> current_user \
                 then 'set role ' || quote_ident(pg_get_userbyid(relowner)) end \
                 from pg_class where oid = to_regclass($1) and relkind = 'p'",
            )
            .bind(&plan.table)
            .fetch_optional(&mut self.conn)
            .await?;
            become_owner = owner.ok_or_else(|| DdlError::ParentMissing(plan.table.clone()))?;
        }
        if let Some(statement) = become_owner {
            self.run(&statement).await?;
        }
        Ok(())
    }
}

/// Makes one leaf, or completes what a crash left of it.
///
/// # Errors
/// `Foreign` when a table of that name is something else; it is left alone.
pub async fn create_leaf(db: &mut Locked, leaf: Leaf) -> Result<LeafOutcome, DdlError> {
    let found = sqlx::query(
        "select c.relispartition, c.relkind = 'r' as plain, i.inhparent = to_regclass($3) as ours,
             exists (select from pg_constraint k where k.conrelid = c.oid and k.conname = $2) as fenced
         from pg_class c left join pg_inherits i on i.inhrelid = c.oid where c.oid = to_regclass($1)",
    )
    .bind(leaf.to_string())
    .bind(fence_name(leaf))
    .bind(&leaf.plan.table)
    .fetch_optional(&mut db.conn)
    .await?;
    let foreign = |problem: &str| DdlError::Foreign { leaf: leaf.to_string(), problem: problem.to_owned() };
    let Some(found) = found else {
        let retired: bool = sqlx::query_scalar("select to_regclass($1) is not null")
            .bind(leaf.retired_name())
            .fetch_one(&mut db.conn)
            .await?;
        if retired {
            return Ok(LeafOutcome::Retired);
        }
        make(db, leaf).await?;
        grant(db, leaf).await?;
        attach(db, leaf).await?;
        return Ok(LeafOutcome::Created);
    };
    if found.try_get("relispartition")? {
        return match found.try_get::<Option<bool>, _>("ours")? {
            Some(true) => Ok(LeafOutcome::Existing),
            _ => Err(foreign("it is a partition of another table")),
        };
    }
    if !found.try_get::<bool, _>("plain")? {
        return Err(foreign("it is no table"));
    }
    if found.try_get("fenced")? {
        return Err(foreign("it is fenced, and not a partition: was it detached by hand?"));
    }
    grant(db, leaf).await?;
    attach(db, leaf).await?;
    Ok(LeafOutcome::PickedUp)
}

/// Gives the service and the reports their rights on a leaf: those on the parent do not reach a leaf that is named.
pub(super) async fn grant(db: &mut Locked, leaf: Leaf) -> Result<(), DdlError> {
    // A new table has what the default privileges give, which a plan may take back.
    let (verb, to) = if leaf.plan.reports { ("grant", "to") } else { ("revoke", "from") };
    db.run(&format!(
        "grant select, insert, update, delete on {leaf} to {SERVICE_ROLE}; \
         {verb} select on {leaf} {to} {REPORT_ROLE}"
    ))
    .await
}

/// The partitions of a table, by name.
///
/// # Errors
/// `Foreign` when a partition has a leaf's name and other bounds.
pub async fn attached(conn: &mut PgConnection, plan: &'static Plan) -> Result<Vec<Attached>, DdlError> {
    let rows = sqlx::query(
        "select c.relname::text as name, i.inhdetachpending as detaching,
             coalesce(pg_get_expr(c.relpartbound, c.oid), '') as bound, obj_description(c.oid, 'pg_class') as comment,
             has_table_privilege($2, c.oid, 'select') and has_table_privilege($2, c.oid, 'insert')
                 and has_table_privilege($2, c.oid, 'update') and has_table_privilege($2, c.oid, 'delete')
                 and has_table_privilege($3, c.oid, 'select') = $4 as granted,
             exists (select from pg_constraint k where k.conrelid = c.oid and k.conname like '%\\_fence') as fenced
         from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = to_regclass($1) order by c.relname",
    )
    .bind(&plan.table)
    .bind(SERVICE_ROLE)
    .bind(REPORT_ROLE)
    .bind(plan.reports)
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let name: String = row.try_get("name")?;
            let leaf = plan.leaf_of_name(&name);
            let found = Attached {
                leaf,
                detaching: row.try_get("detaching")?,
                granted: row.try_get("granted")?,
                fenced: row.try_get("fenced")?,
                comment: row.try_get("comment")?,
                bound: row.try_get("bound")?,
                name,
            };
            match leaf.filter(|leaf| !found.detaching && !same_bound(&found.bound, *leaf)) {
                None => Ok(found),
                Some(leaf) => {
                    Err(DdlError::Foreign { leaf: found.name, problem: format!("it is not {}", leaf.for_values()) })
                }
            }
        })
        .collect()
}

/// The constraint that refuses every write to a leaf that is being retired.
pub(super) fn fence_name(leaf: Leaf) -> String {
    format!("{leaf}_fence")
}

/// PostgreSQL prints numbers in quotes where they are bounds of a range.
fn same_bound(printed: &str, leaf: Leaf) -> bool {
    let plain = |text: &str| text.replace('\'', "").to_ascii_lowercase();
    plain(printed) == plain(&leaf.for_values())
}

async fn make(db: &mut Locked, leaf: Leaf) -> Result<(), DdlError> {
    let plan = leaf.plan;
    let options: Vec<_> = plan.storage.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let with = if options.is_empty() { String::new() } else { format!(" with ({})", options.join(", ")) };
    // From PostgreSQL 17 on a partition takes its parent's identity and must not bring one.
    db.run(&format!("create table if not exists {leaf} (like {} including all excluding identity){with}", plan.table))
        .await
}

/// Attaching locks the parent against other DDL only. It reads a leaf that has rows already (one that was left over and
/// addressed by its name) under an exclusive lock, unless a constraint says what it would look for.
async fn attach(db: &mut Locked, leaf: Leaf) -> Result<(), DdlError> {
    let (table, key) = (&leaf.plan.table, &leaf.plan.key);
    let filled: bool = sqlx::query_scalar(AssertSqlSafe(format!("select exists (select from {leaf})")))
        .fetch_one(&mut db.conn)
        .await?;
    let bounds = leaf.bounds().filter(|_| filled);
    if let Some((from, to)) = &bounds {
        db.run(&format!(
            "alter table {leaf} drop constraint if exists {leaf}_bounds; alter table {leaf} add constraint {leaf}_bounds \
             check ({key} is not null and {key} >= {from} and {key} < {to}) not valid"
        ))
        .await?;
        db.run(&format!("alter table {leaf} validate constraint {leaf}_bounds")).await?;
    }
    db.run(&format!("alter table {table} attach partition {leaf} {}", leaf.for_values())).await?;
    if bounds.is_some() {
        db.run(&format!("alter table {leaf} drop constraint if exists {leaf}_bounds")).await?;
    }
    Ok(())
}

/// Whether it is worth trying again: no lock in time, or the loser of a deadlock.
pub(super) fn is_contention(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("55P03" | "40P01" | "40001"))
}
