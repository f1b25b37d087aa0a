//! What a run was made on.

use std::{fs, process::Command};

/// Load averages over 1, 5 and 15 minutes.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Machine, versions, profile, and how busy the machine was when the run began and when it ended.
pub fn describe(began: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let profile = if cfg!(debug_assertions) { "dev, of no use as a figure" } else { "release" };
    format!(
        "{cores} cores of {model}, {} GiB; {}; {}; profile {profile}. Load averages {began} before and {} after \
         (the run's own load is in the second).\n",
        memory_kib().div_ceil(1 << 20),
        version("postgres", "--version"),
        version("rustc", "--version"),
        load(),
    )
}

/// What the machine has.
pub fn memory_kib() -> u64 {
    let total = field("/proc/meminfo", "MemTotal");
    total.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn version(program: &str, flag: &str) -> String {
    let newest = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path()).max();
    let beside = newest.map(|dir| dir.join("bin").join(program)).filter(|path| path.exists());
    let output = Command::new(beside.unwrap_or_else(|| program.into())).arg(flag).output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    if said.is_empty() { format!("{program} of unknown version") } else { said }
}

/// What the process holds, in MiB.
pub fn resident_mib() -> u64 {
    let rss = field("/proc/self/status", "VmRSS");
    rss.and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Processor time of the threads of this process whose name is, or is not, that of the clients.
pub fn cpu_seconds(of_clients: bool, clients: &str) -> f64 {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let name = fs::read_to_string(thread.path().join("comm")).ok()?;
        if (name.trim() == clients) != of_clients {
            return None;
        }
        let spent = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        spent.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() as f64 / 1e9
}
