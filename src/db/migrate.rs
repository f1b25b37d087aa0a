//! Brings a database to the shape this program needs, and refuses one that it must not touch.
//!
//! - [`bootstrap`] makes the database of an embedded cluster, [`run`] roles, schema and grants; both may be repeated.
//! - [`check`] is what `serve` asks before it begins: the schema's version, the business zone, the database's identity.
//! - [`restored`] is the operator's word that a database was restored: every counter skips ahead, so that numbers given
//!   out after the backup was taken are not given out again.
//!
//! Leaves of partitioned tables are not made here; `partition::upkeep` follows.

use chrono::{DateTime, Utc};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, migrate::MigrateError,
    postgres::PgConnectOptions,
};

use super::{
    pool::{is_connection_loss, sqlstate},
    setting::{find_setting, insert_setting, update_setting},
    tx,
};
use crate::partition::plans;

/// The roles, each with what it may do.
pub mod role {
    pub const OWNER: &str = "tessera_owner";
    pub const UPKEEP: &str = "tessera_upkeep";
    pub const SERVICE: &str = "tessera_service";
    pub const REPORT: &str = "tessera_report";
}

/// The database of an embedded cluster.
pub const DATABASE: &str = "tessera";

/// Numbers that [`restored`] skips: more than could have been given out since the backup.
pub const RESTORED_SKIP: i64 = 1 << 30;

const SETTING_ZONE: &str = "business_zone";
const SETTING_IDENTITY: &str = "database_identity";

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("sql/migrations");

/// Why a database is not fit. Each is one sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    #[error("the database {place} does not answer ({cause}); see that it runs and that the URL is right")]
    NoAnswer { place: String, cause: String },
    #[error("the database {place} refuses the login ({cause}); correct the URL or the server's pg_hba.conf")]
    NoLogin { place: String, cause: String },
    #[error("the database has no schema yet; run `tessera migrate` first")]
    NoSchema,
    #[error("the database's schema is version {found}, this Tessera needs {needed}; run `tessera migrate` first")]
    TooOld { found: i64, needed: i64 },
    #[error(
        "the database's schema is version {found}, this Tessera knows {known} and runs with at most one newer; use \
             the newer Tessera"
    )]
    TooNew { found: i64, known: i64 },
    #[error(
        "migration {version} failed before and left its mark in _sqlx_migrations; look at the database, then delete \
             that row and run `tessera migrate` again"
    )]
    Dirty { version: i64 },
    #[error("migration {version} is not what was applied to this database; use the Tessera that applied it")]
    Changed { version: i64 },
    #[error(
        "this is not the database that it was (system identifier and timeline {recorded} became {found}); if it was \
             restored from a backup or failed over, run `tessera restored`, which skips the numbers that may be in use"
    )]
    Identity { recorded: String, found: String },
    #[error(
        "the business zone of this database is {recorded} and cannot change, since days of coupons hang on it; start \
             with --zone {recorded}"
    )]
    Zone { recorded: String },
    #[error("the counter {name} has no room to skip {RESTORED_SKIP} numbers")]
    CounterFull { name: String },
    #[error(
        "user {user} may not {what}; let the database's administrator run `tessera migrate` once with an owner URL \
             of a superuser, or grant it"
    )]
    NotAllowed { user: String, what: String },
    #[error("migrating failed: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("migrating failed: {0}")]
    Tx(#[from] tx::Error),
}

/// Connects within `within`, or says in a sentence why not.
///
/// # Errors
/// [`MigrationError::NoAnswer`], [`MigrationError::NoLogin`].
pub async fn connect(options: &PgConnectOptions, within: std::time::Duration) -> Result<PgConnection, MigrationError> {
    let place = crate::config::place(options);
    let options = options.clone().disable_statement_logging();
    let cause = match tokio::time::timeout(within, options.connect()).await {
        Ok(Ok(conn)) => return Ok(conn),
        Ok(Err(error)) => {
            let said = error.as_database_error().map(|e| e.message().to_owned());
            match (said, sqlstate(&error)) {
                (Some(cause), Some(code)) if code.starts_with("28") || code == "3D000" => {
                    return Err(MigrationError::NoLogin { place, cause });
                }
                (Some(cause), _) => cause,
                (None, _) => match error {
                    sqlx::Error::Io(error) => super::embedded::short_io(&error),
                    other => other.to_string(),
                },
            }
        }
        Err(_) => format!("nothing came within {} s", within.as_secs_f32()),
    };
    Err(MigrationError::NoAnswer { place, cause })
}

/// Makes roles and an empty database in a cluster of our own. `superuser` is a connection to its `postgres` database.
///
/// # Errors
/// [`MigrationError::Sql`].
pub async fn bootstrap(superuser: &mut PgConnection, database: &str) -> Result<(), MigrationError> {
    create_roles(superuser).await?;
    let exists: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(database)
        .fetch_one(&mut *superuser)
        .await?;
    if !exists {
        let create = format!("create database {} owner {}", quoted(database), role::OWNER);
        superuser.execute(AssertSqlSafe(create)).await?;
    }
    // Whoever may log in may not therefore look in.
    let close = format!("revoke connect, temporary on database {} from public", quoted(database));
    superuser.execute(AssertSqlSafe(close)).await?;
    let open = format!(
        "grant connect on database {} to {}, {}, {}",
        quoted(database),
        role::UPKEEP,
        role::SERVICE,
        role::REPORT
    );
    superuser.execute(AssertSqlSafe(open)).await?;
    Ok(())
}

/// Roles where permitted, then the schema as its owner, then grants. Leaves a schema of a newer program as it is.
/// Partitions' upkeep is the caller's next step.
///
/// # Errors
/// [`MigrationError`].
pub async fn run(conn: &mut PgConnection, zone: &str, now: DateTime<Utc>) -> Result<Migrated, MigrationError> {
    let missing = create_roles(conn).await?;
    for name in &missing {
        tracing::warn!(role = name, "the role does not exist and may not be made here; its grants are left out");
    }
    become_owner(conn).await?;
    let before = version(conn).await?;
    let known = known_version();
    match before {
        Some(found) if found > known + 1 => return Err(MigrationError::TooNew { found, known }),
        // One ahead: a newer program was here first, and both run side by side.
        Some(found) if found > known => {}
        _ => MIGRATOR.run_direct(None, conn, false).await.map_err(migrate_error)?,
    }
    grant(conn).await?;
    insert_setting(conn, SETTING_ZONE, zone, now).await?;
    let identity = identity(conn).await?;
    insert_setting(conn, SETTING_IDENTITY, &identity, now).await?;
    conn.execute("reset role").await?;
    Ok(Migrated { before, after: known.max(before.unwrap_or(0)) })
}

/// Schema versions before and after; none before is a new database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    pub before: Option<i64>,
    pub after: i64,
}

/// Everything `serve` must know before it begins.
///
/// # Errors
/// A sentence that says what to do.
pub async fn check(conn: &mut PgConnection, zone: &str) -> Result<(), MigrationError> {
    check_version(version(conn).await?)?;
    match find_setting(conn, SETTING_ZONE).await? {
        Some(recorded) if recorded != zone => return Err(MigrationError::Zone { recorded }),
        Some(_) => {}
        None => return Err(MigrationError::NoSchema),
    }
    let found = identity(conn).await?;
    match find_setting(conn, SETTING_IDENTITY).await? {
        Some(recorded) if recorded != found => Err(MigrationError::Identity { recorded, found }),
        Some(_) => Ok(()),
        None => Err(MigrationError::NoSchema),
    }
}

fn check_version(found: Option<i64>) -> Result<(), MigrationError> {
    let needed = known_version();
    match found {
        None => Err(MigrationError::NoSchema),
        Some(found) if found < needed => Err(MigrationError::TooOld { found, needed }),
        Some(found) if found > needed + 1 => Err(MigrationError::TooNew { found, known: needed }),
        Some(_) => Ok(()),
    }
}

/// Skips every counter ahead and takes the database for what it is now. Gives the counters' new values.
///
/// # Errors
/// [`MigrationError::CounterFull`] and what the database says; nothing is changed then.
pub async fn restored(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Vec<(String, i64)>, MigrationError> {
    check_version(version(conn).await?)?;
    become_owner(conn).await?;
    let found = identity(conn).await?;
    let counters = tx::run_on(conn, "restored", tx::Mode::ReadCommitted, async move |conn: &mut PgConnection| {
        let blocks = sqlx::query_file!("sql/queries/id_block/lock.sql").fetch_all(&mut *conn).await?;
        if let Some(full) = blocks.into_iter().find(|block| block.next + RESTORED_SKIP >= 1 << 41) {
            return Err(MigrationError::CounterFull { name: full.name });
        }
        let skipped = sqlx::query_file!("sql/queries/id_block/skip.sql", RESTORED_SKIP).fetch_all(&mut *conn).await?;
        update_setting(conn, SETTING_IDENTITY, &found, now).await?;
        Ok::<Vec<(String, i64)>, MigrationError>(skipped.into_iter().map(|one| (one.name, one.next)).collect())
    })
    .await?;
    conn.execute("reset role").await?;
    Ok(counters)
}

/// The schema version this program was built with.
pub fn known_version() -> i64 {
    MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// The database's schema version; None without a schema.
async fn version(conn: &mut PgConnection) -> Result<Option<i64>, MigrationError> {
    let exists: bool =
        sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null").fetch_one(&mut *conn).await?;
    if !exists {
        return Ok(None);
    }
    Ok(sqlx::query_scalar("select max(version) from _sqlx_migrations where success").fetch_one(&mut *conn).await?)
}

/// System identifier and timeline: another cluster or another history of the same one is another identity.
async fn identity(conn: &mut PgConnection) -> Result<String, MigrationError> {
    // The WAL file's name begins with the timeline and, unlike pg_control_checkpoint, knows of a promotion at once.
    Ok(sqlx::query_scalar(
        "select system_identifier::text || ':' ||
                ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text
         from pg_control_system()",
    )
    .fetch_one(&mut *conn)
    .await?)
}

/// Makes the roles that are missing; gives those that are missing still. They get no password: whoever administers
/// another database than ours sets one.
async fn create_roles(conn: &mut PgConnection) -> Result<Vec<&'static str>, MigrationError> {
    let mut missing = Vec::new();
    for name in [role::OWNER, role::UPKEEP, role::SERVICE, role::REPORT] {
        if role_exists(conn, name).await? {
            continue;
        }
        match conn.execute(AssertSqlSafe(format!("create role {name} login"))).await {
            Ok(_) => {}
            // Two programs may be at it at once (unique violation, duplicate role).
            Err(error) if matches!(sqlstate(&error).as_deref(), Some("42710" | "23505")) => {}
            Err(error) if sqlstate(&error).as_deref() == Some("42501") => {
                missing.push(name);
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        if name == role::UPKEEP && !missing.contains(&role::OWNER) {
            // What upkeep makes belongs to the owner, as what migrations make does.
            conn.execute(AssertSqlSafe(format!("grant {} to {}", role::OWNER, role::UPKEEP))).await?;
            conn.execute(AssertSqlSafe(format!("alter role {} set role = {}", role::UPKEEP, role::OWNER))).await?;
        }
    }
    Ok(missing)
}

async fn role_exists(conn: &mut PgConnection, name: &str) -> Result<bool, MigrationError> {
    Ok(sqlx::query_scalar("select exists (select from pg_roles where rolname = $1)").bind(name).fetch_one(conn).await?)
}

/// Acts as the owner's role where that exists and may be taken, else as who we are; sees that it may make tables.
async fn become_owner(conn: &mut PgConnection) -> Result<(), MigrationError> {
    if role_exists(conn, role::OWNER).await? {
        let (is_owner, may_create): (bool, bool) =
            sqlx::query_as("select pg_has_role($1, 'member'), has_schema_privilege($1::name, 'public', 'create')")
                .bind(role::OWNER)
                .fetch_one(&mut *conn)
                .await?;
        if is_owner {
            if !may_create {
                let grant = format!("grant usage, create on schema public to {}", role::OWNER);
                conn.execute(AssertSqlSafe(grant)).await?;
            }
            conn.execute(AssertSqlSafe(format!("set role {}", role::OWNER))).await?;
            return Ok(());
        }
    }
    let (user, may_create): (String, bool) =
        sqlx::query_as("select current_user::text, has_schema_privilege('public', 'create')")
            .fetch_one(&mut *conn)
            .await?;
    if may_create {
        Ok(())
    } else {
        Err(MigrationError::NotAllowed { user, what: "create tables in this database".to_owned() })
    }
}

/// What the service and the reports may do: rows, never tables; and the reports not the rows of every table. Leaves made
/// later get theirs from upkeep, and by the default privileges below.
async fn grant(conn: &mut PgConnection) -> Result<(), MigrationError> {
    const GRANTS: [(&str, &[&str]); 2] = [
        (
            role::SERVICE,
            &[
                "grant usage on schema public to {}",
                "grant select, insert, update, delete on all tables in schema public to {}",
                "revoke insert, update, delete on _sqlx_migrations from {}",
                "grant usage on all sequences in schema public to {}",
                "alter default privileges in schema public grant select, insert, update, delete on tables to {}",
                "alter default privileges in schema public grant usage on sequences to {}",
            ],
        ),
        (
            role::REPORT,
            &[
                "grant usage on schema public to {}",
                "grant select on all tables in schema public to {}",
                "revoke select on api_key from {}",
                "alter default privileges in schema public grant select on tables to {}",
            ],
        ),
    ];
    for (name, statements) in GRANTS {
        if role_exists(conn, name).await? {
            let mut script = statements.join(";\n").replace("{}", name);
            if name == role::REPORT {
                plans().iter().filter(|plan| !plan.reports).for_each(|plan| script.push_str(&closed(&plan.table)));
            }
            // Sent as one, so that it is one transaction: no right is there for a moment that is taken back after it.
            conn.execute(sqlx::raw_sql(AssertSqlSafe(script))).await?;
        }
    }
    Ok(())
}

/// Takes a table and its leaves from the reports again.
fn closed(table: &str) -> String {
    format!(
        ";\ndo $$ declare part regclass; begin
            for part in select relid from pg_partition_tree('{table}') loop
                execute format('revoke select on %s from {}', part);
            end loop;
         end $$",
        role::REPORT
    )
}

fn migrate_error(error: MigrateError) -> MigrationError {
    match error {
        MigrateError::Dirty(version) => MigrationError::Dirty { version },
        MigrateError::VersionMismatch(version) | MigrateError::VersionMissing(version) => {
            MigrationError::Changed { version }
        }
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => MigrationError::Sql(error),
        other => MigrationError::Sql(sqlx::Error::Migrate(Box::new(other))),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// True for an error that may pass by itself while a database starts or fails over.
pub fn is_passing(error: &MigrationError) -> bool {
    match error {
        MigrationError::NoAnswer { .. } => true,
        MigrationError::Sql(error) => is_connection_loss(error),
        MigrationError::Tx(error) => matches!(error, tx::Error::Unavailable(_)),
        _ => false,
    }
}

/// Ends a connection in good manners.
pub async fn close(conn: PgConnection) {
    // The server notices a closed socket as well.
    let _ = conn.close().await;
}
