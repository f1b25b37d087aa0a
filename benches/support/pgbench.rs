//! PostgreSQL's own client: less work for each request than any driver does.

use std::{collections::BTreeMap, process::Command, time::Duration};

use tempfile::TempDir;
use tessera::db::embedded::SUPERUSER;
use tokio::runtime::Runtime;

use super::{Contender, Round, report::is_quick, stage::Stage};

/// Transactions of each client before its time counts: by then it is connected and has prepared its statements.
const WARM: usize = 5;

/// A script run by so many clients.
pub struct Pgbench {
    name: String,
    stage: &'static Stage,
    clients: usize,
    /// Transactions of one client in a round, at least: too few of them would not outweigh connecting.
    each_min: usize,
    dir: TempDir,
    /// Whether each transaction uses a coupon up; the script finds its number in `:n`.
    uses: bool,
}

impl Pgbench {
    /// # Panics
    /// When pgbench, which belongs to every PostgreSQL, is not beside the server.
    pub fn new(stage: &'static Stage, what: &str, clients: usize, script: &str, uses: bool) -> Self {
        assert!(stage.cluster.programs.join("pgbench").exists(), "pgbench is missing beside the server");
        let dir = tempfile::tempdir().expect("a directory");
        let count = if uses { "\\set k :k + 1\n\\set n :base + :client_id * :each + :k\n" } else { "" };
        std::fs::write(dir.path().join("script"), format!("{count}{script}")).expect("a script");
        let each_min = match (uses, is_quick()) {
            (true, _) => 60,
            (false, true) => 200,
            (false, false) => 1_000,
        };
        Self { name: format!("{what}, pgbench, {clients} clients"), stage, clients, each_min, dir, uses }
    }
}

impl Contender for Pgbench {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn round(&mut self, _: &Runtime, calls: usize) -> Round {
        let each = calls.div_ceil(self.clients).max(self.each_min) + WARM;
        let base = if self.uses { self.stage.take_flat((each * self.clients) as i64) } else { 0 };
        let settings: Vec<String> =
            Stage::settings().iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let output = Command::new(self.stage.cluster.programs.join("pgbench"))
            .current_dir(self.dir.path())
            .args(["-n", "-M", "prepared", "-j", &self.clients.min(2).to_string()])
            .args(["-c", &self.clients.to_string(), "-t", &each.to_string(), "-l", "--log-prefix=wait"])
            .args(["-D", &format!("base={base}"), "-D", "k=-1", "-D", &format!("each={each}"), "-f", "script"])
            .arg(self.stage.url(SUPERUSER))
            .env("PGOPTIONS", settings.join(" "))
            .output()
            .expect("pgbench runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("abort"), "pgbench said: {said}");
        let waits = self.waits();
        if self.uses {
            let done: usize = waits.values().map(Vec::len).sum();
            assert_eq!(done, each * self.clients, "pgbench said: {said}");
        }
        steady(&waits, calls)
    }
}

impl Pgbench {
    /// When each transaction of each client ended, and how long it took, in microseconds.
    fn waits(&self) -> BTreeMap<u32, Vec<(u64, u64)>> {
        let mut waits: BTreeMap<u32, Vec<(u64, u64)>> = BTreeMap::new();
        for file in std::fs::read_dir(self.dir.path()).expect("it is there").flatten() {
            if !file.file_name().to_string_lossy().starts_with("wait.") {
                continue;
            }
            let text = std::fs::read_to_string(file.path()).expect("a log");
            std::fs::remove_file(file.path()).expect("it is ours");
            // client, number, microseconds, script, seconds and microseconds of its end
            for line in text.lines() {
                let fields: Vec<u64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
                if let [client, _, took, _, seconds, micros, ..] = fields[..] {
                    waits.entry(client as u32).or_default().push((seconds * 1_000_000 + micros, took));
                }
            }
        }
        waits
    }
}

/// Judged by the time in which every client was at it: warm, and not yet at its end. A client that got no core before
/// another had ended leaves no such time in a short round; then all is judged, connecting and preparing included.
fn steady(waits: &BTreeMap<u32, Vec<(u64, u64)>>, calls: usize) -> Round {
    let warm = || waits.values().filter_map(|waits| waits.get(WARM - 1)).map(|(end, _)| *end);
    let last = || waits.values().filter_map(|waits| waits.last()).map(|(end, _)| *end);
    let (mut begin, mut end) = (warm().max().unwrap_or_default(), last().min().unwrap_or_default());
    if begin >= end {
        eprintln!("the clients of pgbench were never all at it: the whole round is judged");
        (begin, end) = (warm().min().unwrap_or_default(), last().max().unwrap_or_default());
    }
    let took: Vec<Duration> = waits
        .values()
        .flatten()
        .filter(|(ended, _)| (begin + 1..=end).contains(ended))
        .map(|(_, took)| Duration::from_micros(*took))
        .collect();
    assert!(!took.is_empty(), "pgbench logged no transactions beyond the first {WARM} of each client");
    let whole = Duration::from_micros(end - begin).as_secs_f64() * calls as f64 / took.len() as f64;
    Round::of(Duration::from_secs_f64(whole), took)
}
