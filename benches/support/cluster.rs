//! A durable PostgreSQL of the benches' own, made as `tessera serve` makes it (fsync on), gone when they end; or one that
//! holds a built dataset.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use tessera::db::embedded::{Embedded, EmbeddedSettings, Reach};

/// Of the directory in the temporary one; the process's number follows.
const DIR_PREFIX: &str = "tessera-bench-";
const SHARED_BUFFERS_MIB: u64 = 1024;

/// Leaked, since the tasks of benches borrow it; so it is ended by name.
pub struct Cluster {
    /// None where somebody else runs the server.
    embedded: Mutex<Option<Embedded>>,
    reach: Way,
    /// The server's programs, pgbench among them.
    pub programs: PathBuf,
    /// What goes with the server.
    dir: Option<PathBuf>,
}

enum Way {
    /// By the socket of a server of ours, as any role.
    Socket(Reach),
    /// One database, as one role, which must be the owner or more.
    Url(String),
}

impl Cluster {
    pub fn start() -> &'static Self {
        sweep();
        let dir = std::env::temp_dir().join(format!("{DIR_PREFIX}{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory for the database");
        let settings = EmbeddedSettings {
            shared_buffers_mib: Some(SHARED_BUFFERS_MIB),
            ..EmbeddedSettings::new(dir.join("data"))
        };
        Self::run(&settings, Some(dir))
    }

    /// The server of a data directory that stays, with the settings of `tessera serve`.
    pub fn of_data(data_dir: &Path) -> &'static Self {
        Self::run(&EmbeddedSettings::new(data_dir.to_owned()), None)
    }

    fn run(settings: &EmbeddedSettings, dir: Option<PathBuf>) -> &'static Self {
        let embedded = Embedded::start_blocking(settings).unwrap_or_else(|error| panic!("{error}"));
        Box::leak(Box::new(Self {
            dir,
            reach: Way::Socket(embedded.reach().clone()),
            programs: embedded.bin_dir().to_owned(),
            embedded: Mutex::new(Some(embedded)),
        }))
    }

    /// A server that somebody else runs. pgbench is looked for where Debian puts it.
    pub fn at(url: String) -> &'static Self {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest = versions.map(|version| version.path().join("bin")).max().unwrap_or_default();
        let programs = std::env::var_os("TESSERA_PG_BIN").map_or(newest, PathBuf::from);
        Box::leak(Box::new(Self { embedded: Mutex::new(None), reach: Way::Url(url), programs, dir: None }))
    }

    pub fn url(&self, role: &str, database: &str) -> String {
        match &self.reach {
            Way::Socket(reach) => reach.url(role, database),
            Way::Url(url) => url.clone(),
        }
    }

    /// Stops the server and removes its files, if they are ours.
    pub fn end(&self) {
        let embedded = self.embedded.lock().expect("nobody panics while holding it").take();
        drop(embedded);
        if let Some(dir) = &self.dir {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

/// Removes what benches left behind that were killed: their servers are gone with them.
fn sweep() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(DIR_PREFIX).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
