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

/// A running server. Dropping it stops the server and waits; [`Embedded::stop`] does so without blocking the runtime.
pub struct Embedded {
    supervisor: Option<Supervisor>,
    cluster: Arc<Cluster>,
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
        Ok(Self { supervisor: Some(supervisor), cluster, fresh, _lock: lock })
    }

    /// True when this start made the cluster.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// How to reach `database` as `role`.
    pub fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .socket(&self.cluster.socket_dir)
            .port(PORT)
            .username(role)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
    }

    /// The same as a URL that sqlx, libpq and psql take.
    pub fn url(&self, role: &str, database: &str) -> String {
        let socket_dir: String = self
            .cluster
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

    /// Directory of the Unix socket.
    pub fn socket_dir(&self) -> &std::path::Path {
        &self.cluster.socket_dir
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
