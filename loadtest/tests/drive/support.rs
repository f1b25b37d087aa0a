//! A Tessera to load: its own PostgreSQL, and nodes in this process.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use loadtest::drive::{self, Verdict, check::Finding, keys, workload::Workload};
use rand::{SeedableRng, rngs::StdRng};
use sqlx::PgConnection;
use tempfile::TempDir;
use tessera::{
    boot,
    clock::{Clock, Zone},
    config::Settings,
    db::{
        embedded::{Embedded, EmbeddedSettings, SUPERUSER},
        migrate::{self, role},
    },
    node::{self, NodeArgs},
    partition::{Locked, plans, upkeep},
    secret::{SecretFile, Secrets},
};
use tokio::sync::oneshot;

const DATABASE: &str = "tessera_load";

/// A database with keys, and the way to it.
pub struct Ground {
    embedded: Embedded,
    dir: TempDir,
}

/// A node that serves; it stops when it is dropped.
pub struct Node {
    pub url: String,
    _stop: oneshot::Sender<()>,
}

impl Ground {
    pub async fn make(stores: usize) -> Self {
        // PostgreSQL may run as another user, who must get in.
        let dir = tempfile::Builder::new().prefix("tessera-load-").tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        let settings = EmbeddedSettings {
            durable: false,
            shared_buffers_mib: Some(128),
            ..EmbeddedSettings::new(dir.path().join("data"))
        };
        let started = tokio::task::spawn_blocking(move || Embedded::start_blocking(&settings)).await.unwrap();
        let ground = Self { embedded: started.unwrap_or_else(|error| panic!("{error}")), dir };
        let (within, clock) = (Duration::from_secs(30), Clock::system());
        let mut superuser =
            migrate::connect(&ground.embedded.reach().options(SUPERUSER, "postgres"), within).await.unwrap();
        migrate::bootstrap(&mut superuser, DATABASE).await.unwrap();
        migrate::close(superuser).await;
        let owner = ground.embedded.reach().options(role::OWNER, DATABASE);
        boot::migrate_and_upkeep(&owner, within, clock.now(), Zone::DEFAULT).await.unwrap();
        SecretFile::create_new(&ground.path("secrets.toml"), &mut StdRng::seed_from_u64(7)).unwrap();
        let mut conn = ground.sql().await;
        let lines = keys::make(&mut conn, stores, &mut StdRng::seed_from_u64(9)).await.unwrap();
        std::fs::write(ground.path("keys"), lines).unwrap();
        ground
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// With all rights.
    pub async fn sql(&self) -> PgConnection {
        let options = self.embedded.reach().options(SUPERUSER, DATABASE);
        migrate::connect(&options, Duration::from_secs(30)).await.unwrap()
    }

    pub fn url(&self) -> String {
        self.embedded.reach().url(SUPERUSER, DATABASE)
    }

    /// Serves, once it is ready.
    pub async fn node(&self) -> Node {
        self.node_at(Clock::system()).await
    }

    /// Serves by this clock, once it is ready.
    pub async fn node_at(&self, clock: Clock) -> Node {
        let node = self.start(Settings::default(), "http", clock);
        wait_until_ready(&node.url).await;
        node
    }

    /// Serves by TLS with a certificate of its own, which is `cert.pem`. The first request waits until it is ready.
    pub fn node_by_tls(&self) -> Node {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        // PostgreSQL's packages bring the program.
        let made = std::process::Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=load", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=CA:FALSE", "-out", text(&cert), "-keyout", text(&key)])
            .output()
            .expect("openssl is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut settings = Settings::default();
        (settings.server.tls_cert, settings.server.tls_key) = (Some(cert), Some(key));
        self.start(settings, "https", Clock::system())
    }

    fn start(&self, mut settings: Settings, scheme: &str, clock: Clock) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        // For a look at why a test failed; only the first node of the process sets it up.
        if std::env::var_os("TESSERA_LOG").is_some() {
            let _ = tessera::telemetry::init(&settings.log);
        }
        settings.limits.rate_per_second = 1_000_000;
        settings.limits.rate_burst = 1_000_000;
        let file = SecretFile::load(&self.path("secrets.toml")).unwrap();
        let args = NodeArgs {
            settings,
            service: self.embedded.reach().options(role::SERVICE, DATABASE),
            owner: None,
            secrets: Secrets::new(&file, StdRng::seed_from_u64(11)),
            clock,
            holder: uuid::Uuid::now_v7(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            node::serve(args, listener, stopped).await.unwrap();
        });
        Node { url, _stop: stop }
    }

    /// The leaves of the past that coupons and tills of last month need.
    pub async fn make_leaves_from(&self, from: chrono::NaiveDate) {
        self.upkeep(&Clock::system(), Some(upkeep::Past { from, until: None, tables: Vec::new() })).await;
    }

    /// What `tessera partitions upkeep` does, by this clock.
    pub async fn upkeep(&self, clock: &Clock, past: Option<upkeep::Past>) -> upkeep::Report {
        let (owner, now) = (self.embedded.reach().options(role::OWNER, DATABASE), clock.now());
        let mut locked = Locked::open(&owner, plans(), Duration::from_secs(30)).await.unwrap();
        let ask = upkeep::Ask {
            today: Zone::DEFAULT.day_of(now).to_date(),
            now,
            leaves_only: past.is_some(),
            past,
            pace: tessera::partition::expire::Pace::of_window(0),
        };
        let report = upkeep::run(&mut locked, plans(), &ask).await.unwrap();
        locked.close().await.unwrap();
        report
    }

    /// A built-in workload with few members and small jobs, changed a little, as a file.
    pub fn small_but(&self, name: &str, change: impl FnOnce(&mut Workload)) -> String {
        let mut workload = Workload::load(name).unwrap();
        workload.prepare.members = workload.prepare.members.min(60);
        workload.prepare.rules = workload.prepare.rules.min(2);
        if workload.jobs.every_seconds > 0.0 {
            (workload.jobs.every_seconds, workload.jobs.coupons) = (1.0, 40);
        }
        change(&mut workload);
        let path = self.path(&format!("{name}.toml"));
        std::fs::write(&path, toml::to_string(&workload).unwrap()).unwrap();
        text(&path).to_owned()
    }

    pub fn small(&self, name: &str) -> String {
        self.small_but(name, |_| {})
    }

    /// `loadtest ARGS`, with debug builds allowed and no bound on the generator's lateness: other tests run meanwhile.
    pub async fn loadtest(&self, args: &[&str]) -> anyhow::Result<Verdict> {
        #[derive(Parser)]
        struct Cli {
            #[command(subcommand)]
            command: drive::Command,
        }
        let keys = self.path("keys");
        let aimed = ["--allow-debug", "--lateness-max", "60000", "--keys", keys.to_str().unwrap()];
        let aims = matches!(args[0], "run" | "find");
        let more = if aims { &aimed[..] } else { &[] };
        let all = ["loadtest"].iter().chain(args).chain(more);
        drive::run(Cli::try_parse_from(all)?.command).await
    }
}

async fn wait_until_ready(url: &str) {
    let address = url.trim_start_matches("http://");
    for _ in 0..1_200 {
        if let Ok(stream) = tokio::net::TcpStream::connect(address).await {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let mut stream = stream;
            let ask = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            let mut answer = String::new();
            if stream.write_all(ask.as_bytes()).await.is_ok()
                && stream.read_to_string(&mut answer).await.is_ok()
                && answer.starts_with("HTTP/1.1 200")
            {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("the node at {url} did not become ready");
}

/// The invariants that are broken.
pub fn broken(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|finding| finding.broken > 0).map(|finding| finding.name.as_str()).collect()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub fn signal(what: &str, pid: i32) {
    let sent = std::process::Command::new("kill").args([what, &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "the database's process may be signalled");
}
