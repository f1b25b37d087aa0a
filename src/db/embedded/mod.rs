//! A PostgreSQL of Tessera's own: found, made, started, watched and stopped.
//!
//! - One Tessera a data directory: a file locked with flock says whose it is.
//! - The server is a child of a thread that lives as long as this process, and asks the kernel to be stopped when that
//!   thread ends, so it is gone when Tessera is, also after `kill -9`.
//! - Durable: fsync is on unless [`EmbeddedSettings::durable`] is switched off, which only tests do.
//! - It listens on a Unix socket only, in a directory of mode 0700, and lets in by `peer`: the kernel says which user
//!   asks, and only this process's user may be one of our roles. So there is no password that could leak or get lost,
//!   and no other user of the host gets in, which `trust` would allow through a wrong mode of the directory.
//! - When it dies, it is started again with growing pauses; callers meet errors of connection meanwhile.
//!
//! Roles, databases and schema are not made here but in `migrate`.

mod binaries;
mod cluster;
mod supervisor;

use std::{fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use fs2::FileExt;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use cluster::Cluster;
pub use cluster::effective_uid;
pub(crate) use cluster::short as short_io;
use supervisor::Supervisor;

/// The superuser of an embedded cluster.
pub const SUPERUSER: &str = "postgres";
const PORT: u16 = 5432;

/// What an embedded server is started with.
#[derive(Debug, Clone)]
pub struct EmbeddedSettings {
    pub data_dir: PathBuf,
    /// Directory of `initdb` and `postgres`; searched for when absent.
    pub pg_bin: Option<PathBuf>,
    /// False switches fsync off: only for clusters that are thrown away. A killed process loses nothing even so.
    pub durable: bool,
    /// While it runs this time a table that is filled in the transaction that makes it is not written to the log too, but
    /// to disk at the commit; nothing is less durable. Nobody can follow its log, and backups by log begin anew after it.
    pub fills: bool,
    pub connections_max: u16,
    /// MiB of shared buffers; by default a quarter of the memory, at most 8 GiB.
    pub shared_buffers_mib: Option<u64>,
    /// How long a start may take, replay after a crash included.
    pub start_max: Duration,
}

impl EmbeddedSettings {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            pg_bin: None,
            durable: true,
            fills: false,
            connections_max: 200,
            shared_buffers_mib: None,
            start_max: Duration::from_secs(900),
        }
    }
}

/// Why there is no server. Each is one sentence with cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("another Tessera{} runs on the data directory {}; stop it or choose another with --data-dir",
            .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), .dir.display())]
    InUse { dir: PathBuf, pid: Option<u32> },
    #[error("there is no database in {}; choose another directory with --data-dir, name a database with --database-url, or \
             make one with `tessera serve`", .dir.display())]
    NotThere { dir: PathBuf },
    #[error("the data directory {} cannot be written ({cause}); make it writable or choose another with --data-dir",
            .dir.display())]
    NotWritable { dir: PathBuf, cause: String },
    #[error("the disk of the data directory {} is full ({free_mib} MiB free, {wanted_mib} MiB wanted); free some space \
             or choose another with --data-dir", .dir.display())]
    DiskFull { dir: PathBuf, free_mib: u64, wanted_mib: u64 },
    #[error(
        "no PostgreSQL server 15 or later was found ({looked}); install it (Debian: apt-get install postgresql), \
             name its directory with --pg-bin, or name a database with --database-url"
    )]
    NoBinaries { looked: String },
    #[error("the data in {} was made by PostgreSQL {data}, but only {found} was found; install PostgreSQL {data}, or \
             bring the data over with pg_upgrade", .dir.display())]
    WrongMajor { dir: PathBuf, data: u32, found: String },
    #[error(
        "PostgreSQL does not run as root, and neither user `postgres` nor `nobody` exists; create one with \
             `useradd --system postgres`, or start Tessera as an ordinary user"
    )]
    NoUser,
    #[error("user {user}, as whom PostgreSQL runs when Tessera is root, cannot reach {}, because {} is closed to it; \
             choose --data-dir in a place it can reach, such as /var/lib/tessera, or open that directory with chmod o+x",
            .dir.display(), .closed.display())]
    Unreachable { user: String, dir: PathBuf, closed: PathBuf },
    #[error("the data in {} belongs to another user (uid {uid}); start Tessera as that user or as root", .dir.display())]
    Foreign { dir: PathBuf, uid: u32 },
    #[error("a PostgreSQL (pid {pid}) still runs on {} and did not end within {waited_s} s; stop it with \
             `kill -INT {pid}` and start again", .dir.display())]
    StillRunning { dir: PathBuf, pid: u32, waited_s: u64 },
    #[error("the database directory could not be made: initdb said: {said}")]
    Initdb { said: String },
    #[error("PostgreSQL did not start: it said: {said} (the whole log is {})", .log.display())]
    Start { said: String, log: PathBuf },
    #[error("PostgreSQL was not ready after {waited_s} s; see {}", .log.display())]
    Slow { waited_s: u64, log: PathBuf },
    #[error("{what} failed: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl EmbeddedError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The way to an embedded server: the directory of its socket.
#[derive(Debug, Clone)]
pub struct Reach {
    pub socket_dir: PathBuf,
}

impl Reach {
    /// The way to the server that another process runs on a data directory.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn of(data_dir: &std::path::Path) -> Result<Self, EmbeddedError> {
        let dir = std::fs::canonicalize(data_dir)
            .map_err(EmbeddedError::io(format!("looking for the data directory {}", data_dir.display())))?;
        Ok(Self { socket_dir: cluster::socket_dir(&dir) })
    }

    /// How to reach `database` as `role`.
    pub fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .socket(&self.socket_dir)
            .port(PORT)
            .username(role)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// The same as a URL that sqlx, libpq and psql take.
    pub fn url(&self, role: &str, database: &str) -> String {
        let socket_dir: String = self
            .socket_dir
            .display()
            .to_string()
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        format!("postgres://{role}@{socket_dir}:{PORT}/{database}")
    }
}

/// A running server. Dropping it stops the server and waits; [`Embedded::stop`] does so without blocking the runtime.
pub struct Embedded {
    supervisor: Option<Supervisor>,
    cluster: Arc<Cluster>,
    reach: Reach,
    fresh: bool,
    /// Held for the life of the server; the lock goes with it.
    _lock: File,
}

impl Embedded {
    /// Makes the cluster if there is none, waits for a predecessor that is still ending, starts the server and waits
    /// until it takes connections.
    ///
    /// # Errors
    /// [`EmbeddedError`], with nothing left running.
    pub async fn start(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || Self::start_blocking(&settings))
            .await
            .unwrap_or_else(|died| Err(EmbeddedError::Io { what: "starting".into(), source: io::Error::other(died) }))
    }

    /// As [`Embedded::start`] for callers without a runtime.
    ///
    /// # Errors
    /// As [`Embedded::start`].
    pub fn start_blocking(settings: &EmbeddedSettings) -> Result<Self, EmbeddedError> {
        let dir = cluster::prepare_dir(&settings.data_dir)?;
        let lock = lock(&dir)?;
        let (cluster, fresh) = Cluster::open_or_create(&dir, settings)?;
        let cluster = Arc::new(cluster);
        let supervisor = Supervisor::start(Arc::clone(&cluster), settings.start_max)?;
        let reach = Reach { socket_dir: cluster.socket_dir.clone() };
        Ok(Self { supervisor: Some(supervisor), cluster, reach, fresh, _lock: lock })
    }

    /// Whether a server was ever started on a data directory.
    pub fn exists(data_dir: &std::path::Path) -> bool {
        Cluster::exists(data_dir)
    }

    /// True when this start made the cluster.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// How to reach `database` as `role`.
    pub fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        self.reach.options(role, database)
    }

    /// The same as a URL that sqlx, libpq and psql take.
    pub fn url(&self, role: &str, database: &str) -> String {
        self.reach.url(role, database)
    }

    /// The way to the server, for others who outlive this value.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Directory of the server's programs (`psql`, `pg_basebackup`), for tests and tools.
    pub fn bin_dir(&self) -> &std::path::Path {
        &self.cluster.binaries.dir
    }

    /// Directory of the cluster itself (PGDATA).
    pub fn pgdata(&self) -> &std::path::Path {
        &self.cluster.pgdata
    }

    /// Process id of the server; 0 while it is down.
    pub fn pid(&self) -> u32 {
        self.supervisor.as_ref().map_or(0, Supervisor::pid)
    }

    /// How often the server died and was started again.
    pub fn restarts(&self) -> u64 {
        self.supervisor.as_ref().map_or(0, Supervisor::restarts)
    }

    /// Stops the server cleanly (open transactions are rolled back) and waits until it is gone.
    pub async fn stop(mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            // The lock in self outlives the server, so that a successor finds the directory free only when it is.
            let ended = tokio::task::spawn_blocking(move || supervisor.stop()).await;
            if let Err(died) = ended {
                tracing::error!(error = %died, "stopping PostgreSQL failed");
            }
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.stop();
        }
    }
}

/// Locks the directory for this process and writes its pid for the message that a second one gives.
fn lock(dir: &std::path::Path) -> Result<File, EmbeddedError> {
    let path = dir.join("tessera.lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| EmbeddedError::NotWritable { dir: dir.to_owned(), cause: cluster::short(&e) })?;
    if let Err(error) = FileExt::try_lock_exclusive(&file) {
        if error.raw_os_error() != fs2::lock_contended_error().raw_os_error() {
            return Err(EmbeddedError::io(format!("locking {}", path.display()))(error));
        }
        let pid = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        return Err(EmbeddedError::InUse { dir: dir.to_owned(), pid });
    }
    // Best effort: on a full disk the lock still holds, only the message of a second start lacks the pid.
    let _ = file.set_len(0);
    let _ = std::os::unix::fs::FileExt::write_all_at(&file, format!("{}\n", std::process::id()).as_bytes(), 0);
    Ok(file)
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions, Connection};

    use super::*;
    use crate::db::{
        migrate::{self, role},
        pool::{Error, Office, OfficeSettings},
        tx,
    };

    fn throwaway() -> (tempfile::TempDir, EmbeddedSettings) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // The server may run as another user, who must pass.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(dir.path(), mode).expect("opening the directory");
        let mut settings = EmbeddedSettings::new(dir.path().join("data"));
        settings.durable = false;
        settings.shared_buffers_mib = Some(32);
        (dir, settings)
    }

    fn kill(pid: u32) {
        // SAFETY: plain numbers.
        unsafe { libc::kill(libc::pid_t::try_from(pid).expect("a pid"), libc::SIGKILL) };
    }

    async fn one(embedded: &Embedded) -> Result<i32, sqlx::Error> {
        let mut conn = embedded.options(SUPERUSER, "postgres").connect().await?;
        sqlx::query_scalar("select 1").fetch_one(&mut conn).await
    }

    #[tokio::test]
    async fn a_server_starts_is_held_by_one_and_survives_its_death() {
        let (_dir, settings) = throwaway();
        let embedded = Embedded::start(&settings).await.expect("a first start");
        assert!(embedded.is_fresh());
        assert_eq!(one(&embedded).await.expect("an answer"), 1);
        let mut by_url =
            sqlx::PgConnection::connect(&embedded.url(SUPERUSER, "postgres")).await.expect("the URL works");
        let checksums: String = sqlx::query_scalar("show data_checksums").fetch_one(&mut by_url).await.expect("a row");
        assert_eq!(checksums, "on");

        let second = Embedded::start(&settings).await.err().expect("a second start is refused");
        assert!(matches!(second, EmbeddedError::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{second}");

        let pid = embedded.pid();
        kill(pid);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while embedded.restarts() == 0 {
            assert!(std::time::Instant::now() < deadline, "the server was not started again");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_ne!(embedded.pid(), pid);
        assert_eq!(one(&embedded).await.expect("an answer again"), 1);

        embedded.stop().await;
        let again = Embedded::start(&settings).await.expect("a start on existing data");
        assert!(!again.is_fresh());
        again.stop().await;
    }

    #[tokio::test]
    async fn migrations_apply_twice_and_the_service_cannot_create() {
        let (_dir, settings) = throwaway();
        let embedded = Embedded::start(&settings).await.expect("a start");
        let now = chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("an instant");
        for round in 0..2 {
            let mut root = embedded.options(SUPERUSER, "postgres").connect().await.expect("a superuser");
            migrate::bootstrap(&mut root, migrate::DATABASE).await.expect("roles and database");
            let mut owner =
                embedded.options(role::OWNER, migrate::DATABASE).connect().await.expect("the owner gets in");
            let migrated = migrate::run(&mut owner, "Asia/Shanghai", now).await.expect("migrations");
            assert_eq!(migrated.before, (round > 0).then(migrate::known_version));
        }
        let mut service = embedded.options(role::SERVICE, migrate::DATABASE).connect().await.expect("the service");
        migrate::check(&mut service, "Asia/Shanghai").await.expect("a fit database");
        let zone = migrate::check(&mut service, "Europe/Berlin").await.expect_err("another zone");
        assert!(zone.to_string().contains("--zone Asia/Shanghai"), "{zone}");
        let create = sqlx::query("create table own (n int)").execute(&mut service).await.expect_err("not allowed");
        assert_eq!(create.as_database_error().and_then(|e| e.code()).as_deref(), Some("42501"));
        sqlx::query("insert into setting values ('a', 'b', now())").execute(&mut service).await.expect("rows are");

        let mut owner = embedded.options(role::OWNER, migrate::DATABASE).connect().await.expect("the owner");
        sqlx::query("update setting set value = '1:1' where name = 'database_identity'")
            .execute(&mut owner)
            .await
            .expect("a forged identity");
        let identity = migrate::check(&mut service, "Asia/Shanghai").await.expect_err("another identity");
        assert!(identity.to_string().contains("tessera restored"), "{identity}");
        let counters = migrate::restored(&mut owner, now).await.expect("the operator's word");
        assert!(counters.iter().all(|(_, next)| *next > migrate::RESTORED_SKIP), "{counters:?}");
        migrate::check(&mut service, "Asia/Shanghai").await.expect("fit again");

        // An upkeep connection makes what belongs to the owner.
        let mut upkeep = embedded.options(role::UPKEEP, migrate::DATABASE).connect().await.expect("upkeep");
        let acts_as: String =
            sqlx::query_scalar("select current_user::text").fetch_one(&mut upkeep).await.expect("a row");
        assert_eq!(acts_as, role::OWNER);
        embedded.stop().await;
    }

    #[tokio::test]
    async fn the_office_hands_on_no_open_transaction() {
        let (_dir, settings) = throwaway();
        let embedded = Embedded::start(&settings).await.expect("a start");
        let office_settings = OfficeSettings { connections_max: 1, ..OfficeSettings::default() };
        let office = Office::new(embedded.options(SUPERUSER, "postgres"), &office_settings);
        sqlx::query("create table note (n int primary key)")
            .execute(&mut *office.get().await.expect("a connection"))
            .await
            .expect("a table");

        // Dropped at every point of its life: sometimes before BEGIN is answered, sometimes in the body or at COMMIT.
        for n in 0..200_u64 {
            let office = office.clone();
            let id = i32::try_from(n).expect("small");
            let work = async move {
                tx::run(&office, "halfway", async move |conn: &mut sqlx::PgConnection| {
                    sqlx::query("insert into note values ($1)")
                        .bind(id)
                        .execute(&mut *conn)
                        .await
                        .map_err(Error::from)?;
                    sqlx::query("select pg_sleep(0.001)").execute(conn).await.map_err(Error::from)?;
                    Ok::<_, Error>(())
                })
                .await
            };
            let task = tokio::spawn(work);
            tokio::time::sleep(Duration::from_micros(n * 20)).await;
            task.abort();
        }
        let mut conn = office.get().await.expect("a connection");
        let savepoint = sqlx::raw_sql("savepoint probe").execute(&mut *conn).await.expect_err("no transaction is open");
        assert_eq!(crate::db::pool::sqlstate(&savepoint).as_deref(), Some("25P01"));
        drop(conn);
        let mut other = embedded.options(SUPERUSER, "postgres").connect().await.expect("a connection");
        let open: i64 = sqlx::query_scalar("select count(*) from pg_stat_activity where state like 'idle in%'")
            .fetch_one(&mut other)
            .await
            .expect("a row");
        assert_eq!(open, 0);

        // A swallowed error is not committed as if nothing had been.
        let swallowed = tx::run(&office, "swallowed", async |conn: &mut sqlx::PgConnection| {
            let _ = sqlx::query("select 1 / 0").execute(conn).await;
            Ok::<_, Error>(())
        })
        .await;
        assert_eq!(swallowed.expect_err("the transaction is dead").sqlstate().as_deref(), Some("25P02"));

        // The database dies and comes back: an error of the right kind, then answers again without help.
        kill(embedded.pid());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            match office.get().await {
                Ok(mut conn) => match sqlx::query_scalar::<_, i32>("select 1").fetch_one(&mut *conn).await {
                    Ok(_) if embedded.restarts() > 0 => break,
                    Ok(_) => {}
                    Err(error) => assert!(matches!(Error::from(error), Error::Unavailable(_))),
                },
                Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error:?}"),
            }
            assert!(std::time::Instant::now() < deadline, "the office did not recover");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        embedded.stop().await;
    }
}
