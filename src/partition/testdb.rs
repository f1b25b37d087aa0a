//! A PostgreSQL cluster for the tests of this module: started once per test process, on a Unix socket, gone with it.
//!
//! Each test gets a database of its own, cloned from a template to which the migrations and the leaves around
//! [`TODAY`] were applied. Durability is off.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tokio::sync::OnceCell;

use super::expire::Pace;
use super::upkeep::Ask;
use super::{Locked, plans, upkeep};

pub const TODAY: &str = "2026-11-22";
const TEMPLATE: &str = "tessera_template";
pub const PATIENCE: Duration = Duration::from_secs(20);

static CLUSTER: OnceLock<Cluster> = OnceLock::new();
static PREPARED: OnceCell<()> = OnceCell::const_new();
static NAMES: AtomicU32 = AtomicU32::new(0);

struct Cluster {
    folder: PathBuf,
    pid: i32,
}

/// A database of its own for one test.
pub struct TestDb {
    options: PgConnectOptions,
}

impl TestDb {
    pub async fn new() -> Self {
        let cluster = CLUSTER.get_or_init(Cluster::start);
        PREPARED.get_or_init(|| cluster.prepare()).await;
        let name = format!("t{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let mut admin = cluster.options("postgres").connect().await.unwrap();
        execute(&mut admin, &format!("create database {name} template {TEMPLATE}")).await;
        Self { options: cluster.options(&name) }
    }

    pub fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub async fn connect(&self) -> PgConnection {
        self.options.connect().await.unwrap()
    }

    /// A connection with the service's rights.
    pub async fn service(&self) -> PgConnection {
        let mut conn = self.connect().await;
        execute(&mut conn, "set role tessera_service").await;
        conn
    }

    pub async fn locked(&self) -> Locked {
        Locked::open(&self.options, plans(), PATIENCE).await.unwrap()
    }
}

pub async fn execute(conn: &mut PgConnection, statements: &str) {
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(statements)).execute(conn).await {
        panic!("{error}\n{statements}");
    }
}

pub async fn value<T>(conn: &mut PgConnection, statement: &str) -> T
where
    T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
{
    match sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(conn).await {
        Ok(value) => value,
        Err(error) => panic!("{error}\n{statement}"),
    }
}

/// A run of upkeep on [`TODAY`], as fast as it goes.
pub fn ask() -> Ask {
    Ask { today: today(), now: noon(), past: None, leaves_only: false, pace: pace() }
}

pub fn pace() -> Pace {
    Pace { batch_rows: 7, pause: Duration::ZERO, late_days: 36 }
}

pub fn today() -> NaiveDate {
    TODAY.parse().unwrap()
}

pub fn noon() -> DateTime<Utc> {
    today().and_hms_opt(12, 0, 0).unwrap().and_utc()
}

impl Cluster {
    #[expect(clippy::zombie_processes, reason = "`stop` waits for it by its number when the process ends")]
    fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("tessera-partition-{}", std::process::id()));
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        let user = unprivileged();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let data = folder.join("data");
        let made = as_user(&binary("initdb"), user)
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--auth=trust", "--username=postgres", "--no-sync", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut command = as_user(&binary("postgres"), user);
        command.arg("-D").arg(&data).arg("-k").arg(&folder).stdout(Stdio::null());
        for setting in ["listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=60"] {
            command.args(["-c", setting]);
        }
        command.stderr(std::fs::File::create(folder.join("log")).unwrap());
        let child = keep(command);
        let cluster = Self { folder, pid: child.id() as i32 };
        // SAFETY: the handler touches only the cluster, which is a static that is never dropped.
        unsafe { libc::atexit(stop) };
        let status = cluster.folder.join("data/postmaster.pid");
        let ready = || std::fs::read_to_string(&status).is_ok_and(|text| text.contains("ready"));
        for _ in 0..3_000 {
            if ready() {
                return cluster;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{}", std::fs::read_to_string(cluster.folder.join("log")).unwrap());
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.folder).port(5432).username("postgres").database(database)
    }

    async fn prepare(&self) {
        let mut admin = self.options("postgres").connect().await.unwrap();
        execute(&mut admin, "create role tessera_owner; create role tessera_service; create role tessera_report").await;
        execute(&mut admin, &format!("create database {TEMPLATE} owner tessera_owner")).await;
        let mut conn = self.options(TEMPLATE).connect().await.unwrap();
        execute(&mut conn, "alter schema public owner to tessera_owner; set role tessera_owner").await;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            execute(&mut conn, &std::fs::read_to_string(file).unwrap()).await;
        }
        execute(&mut conn, "grant select, insert, update, delete on all tables in schema public to tessera_service")
            .await;
        drop(conn);
        let mut db = Locked::open(&self.options(TEMPLATE), plans(), PATIENCE).await.unwrap();
        upkeep::run(&mut db, plans(), &Ask { leaves_only: true, ..ask() }).await.unwrap();
        db.close().await.unwrap();
    }
}

/// Spawns from a thread that lives as long as the process: the child is told when the thread that made it dies.
fn keep(mut command: Command) -> Child {
    let (give, take) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // SAFETY: prctl is async-signal-safe and touches nothing of this process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGINT) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        give.send(command.spawn().unwrap()).unwrap();
        loop {
            std::thread::park();
        }
    });
    take.recv().unwrap()
}

extern "C" fn stop() {
    let Some(cluster) = CLUSTER.get() else { return };
    // SAFETY: the child was started by this process and is waited for, so its number is still its own.
    unsafe {
        libc::kill(cluster.pid, libc::SIGQUIT);
        libc::waitpid(cluster.pid, std::ptr::null_mut(), 0);
    }
    std::fs::remove_dir_all(&cluster.folder).ok();
}

/// PostgreSQL refuses to run as root.
fn unprivileged() -> Option<(u32, u32)> {
    // SAFETY: geteuid cannot fail; getpwnam's result is read before anything else could call it.
    unsafe {
        if libc::geteuid() != 0 {
            return None;
        }
        let found =
            [c"postgres", c"nobody"].iter().map(|name| libc::getpwnam(name.as_ptr())).find(|user| !user.is_null());
        let user = found.expect("root needs a user `postgres` or `nobody` to run PostgreSQL as");
        Some(((*user).pw_uid, (*user).pw_gid))
    }
}

fn as_user(binary: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(binary);
    command.current_dir("/").stdin(Stdio::null());
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// The newest server of this machine.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut versions: Vec<u32> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
        .unwrap_or_default();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    folders.extend(versions.iter().map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"))));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name}: the tests need PostgreSQL 15 or later"))
}
