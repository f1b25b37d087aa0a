//! A durable PostgreSQL of the benches' own, made as `tessera serve` makes it (fsync on), gone when they end.

use std::{path::PathBuf, sync::Mutex};

use tessera::db::embedded::{Embedded, EmbeddedSettings, Reach};

/// Of the directory in the temporary one; the process's number follows.
const DIR_PREFIX: &str = "tessera-bench-";
const SHARED_BUFFERS_MIB: u64 = 1024;

/// Leaked, since the tasks of benches borrow it; so it is ended by name.
pub struct Cluster {
    embedded: Mutex<Option<Embedded>>,
    reach: Reach,
    /// The server's programs, pgbench among them.
    pub programs: PathBuf,
    dir: PathBuf,
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
        let embedded = Embedded::start_blocking(&settings).unwrap_or_else(|error| panic!("{error}"));
        Box::leak(Box::new(Self {
            dir,
            reach: embedded.reach().clone(),
            programs: embedded.bin_dir().to_owned(),
            embedded: Mutex::new(Some(embedded)),
        }))
    }

    pub fn url(&self, role: &str, database: &str) -> String {
        self.reach.url(role, database)
    }

    /// Stops the server and removes its files.
    pub fn end(&self) {
        let embedded = self.embedded.lock().expect("nobody panics while holding it").take();
        drop(embedded);
        let _ = std::fs::remove_dir_all(&self.dir);
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
