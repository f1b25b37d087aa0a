//! One PostgreSQL for the whole run, and a database for each test, cloned from a template that is migrated once.

use std::{
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rand::{SeedableRng, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};
use tessera::{
    boot,
    clock::{Clock, Zone},
    db::{
        embedded::{Embedded, EmbeddedSettings, Reach, SUPERUSER},
        migrate::{self, role},
    },
    secret::{SecretFile, Secrets},
};

const TEMPLATE: &str = "tessera_template";

struct Cluster {
    reach: Reach,
    dir: PathBuf,
    // Stopped by the kernel when the test process ends; never dropped, since statics are not.
    embedded: Embedded,
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let cluster = start();
            runtime.block_on(make_template(&cluster.reach));
            cluster
        })
        .join()
        .expect("the cluster of the tests did not start")
    })
}

fn start() -> Cluster {
    let base = std::env::temp_dir();
    // What an earlier run left behind: its server is gone with it.
    for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(pid) = name.strip_prefix("tessera-it-").and_then(|pid| pid.parse::<u32>().ok())
            && !PathBuf::from(format!("/proc/{pid}")).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    let dir = base.join(format!("tessera-it-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let settings = EmbeddedSettings {
        durable: false,
        connections_max: 400,
        shared_buffers_mib: Some(512),
        ..EmbeddedSettings::new(dir.join("data"))
    };
    let embedded = Embedded::start_blocking(&settings).unwrap_or_else(|error| panic!("{error}"));
    SecretFile::create_new(&dir.join("secrets.toml"), &mut StdRng::seed_from_u64(7)).unwrap();
    Cluster { reach: embedded.reach().clone(), dir, embedded }
}

async fn make_template(reach: &Reach) {
    let within = Duration::from_secs(20);
    let mut superuser = migrate::connect(&reach.options(SUPERUSER, "postgres"), within).await.unwrap();
    migrate::bootstrap(&mut superuser, TEMPLATE).await.unwrap();
    migrate::close(superuser).await;
    let clock = Clock::system();
    let mut owner = migrate::connect(&reach.options(role::OWNER, TEMPLATE), within).await.unwrap();
    migrate::run(&mut owner, Zone::DEFAULT.name(), clock.now()).await.unwrap();
    sqlx::raw_sql(crate::MORE_SCHEMA).execute(&mut owner).await.unwrap();
    migrate::close(owner).await;
    boot::migrate_and_upkeep(&reach.options(role::OWNER, TEMPLATE), within, clock.now(), Zone::DEFAULT).await.unwrap();
}

/// A database of a test's own. Its rows stay for a look afterwards; the cluster goes with the run.
#[derive(Clone)]
pub struct TestDb {
    pub name: String,
    reach: Reach,
}

impl TestDb {
    pub async fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let cluster = tokio::task::spawn_blocking(cluster).await.unwrap();
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut superuser = PgConnection::connect_with(&cluster.reach.options(SUPERUSER, "postgres")).await.unwrap();
        let create = format!("create database {name} template {TEMPLATE} owner {} strategy file_copy", role::OWNER);
        // Two clones of one template at once are refused while the other copies.
        for _ in 0..2400 {
            match sqlx::raw_sql(AssertSqlSafe(create.clone())).execute(&mut superuser).await {
                Ok(_) => break,
                Err(error) if tessera::db::sqlstate(&error).as_deref() == Some("55006") => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        migrate::bootstrap(&mut superuser, &name).await.unwrap();
        superuser.close().await.unwrap();
        Self { name, reach: cluster.reach.clone() }
    }

    /// As the service's role.
    pub fn service(&self) -> PgConnectOptions {
        self.reach.options(role::SERVICE, &self.name)
    }

    /// As another of the database's roles.
    pub fn as_role(&self, role: &str) -> PgConnectOptions {
        self.reach.options(role, &self.name)
    }

    pub fn superuser(&self) -> PgConnectOptions {
        self.reach.options(SUPERUSER, &self.name)
    }

    /// For `DATABASE_URL` of a server process.
    pub fn service_url(&self) -> String {
        self.reach.url(role::SERVICE, &self.name)
    }

    pub fn owner_url(&self) -> String {
        self.reach.url(role::OWNER, &self.name)
    }

    pub fn superuser_url(&self) -> String {
        self.reach.url(SUPERUSER, &self.name)
    }

    /// The directory of the server's programs.
    pub fn pg_bin(&self) -> PathBuf {
        cluster().embedded.bin_dir().to_owned()
    }

    /// A connection for looking at what was written, with all rights.
    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect_with(&self.superuser()).await.unwrap()
    }

    /// One number out of SQL.
    pub async fn count(&self, sql: &str) -> i64 {
        let mut conn = self.sql().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut conn)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// The secrets that all servers of the run share.
    pub fn secrets_path(&self) -> PathBuf {
        cluster().dir.join("secrets.toml")
    }

    pub fn secrets(&self) -> Secrets {
        Secrets::new(&SecretFile::load(&self.secrets_path()).unwrap(), StdRng::seed_from_u64(11))
    }

    /// The same database by another way, such as a proxy's.
    pub fn through(&self, socket_dir: &std::path::Path) -> Self {
        Self { name: self.name.clone(), reach: Reach { socket_dir: socket_dir.to_owned() } }
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.reach.socket_dir.clone()
    }
}
