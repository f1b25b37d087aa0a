//! Logs and the figures of the process itself.
//!
//! Requests are not logged at info: a span each would triple the CPU of a small answer. What a request cost stands in
//! metrics and in `Server-Timing`; `--log tessera=debug` adds the rest. Personal data and secrets are never logged.

use std::{fs, io::IsTerminal, panic};

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{LogFormat, LogSettings};

/// Kept quiet unless the filter names them: the driver repeats statements in its warnings, the server its start.
const ALWAYS: [&str; 4] =
    ["sqlx::postgres::notice=error", "sqlx::query=error", "actix_server=warn", "actix_http::h1=off"];

/// Installs the logger, on standard error, and the hook that logs panics. Once per process; later calls do nothing.
///
/// # Errors
/// When the filter cannot be read.
pub fn init(settings: &LogSettings) -> Result<(), ParseError> {
    let mut filter = EnvFilter::builder().parse(&settings.log_filter)?;
    for directive in ALWAYS {
        let target = directive.split('=').next().unwrap_or_default();
        if !settings.log_filter.contains(target) {
            filter = filter.add_directive(directive.parse()?);
        }
    }
    let registry = tracing_subscriber::registry().with(filter);
    // Colours are for people at a terminal; in a file they are noise.
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let done = match settings.log_format {
        LogFormat::Compact => {
            registry.with(fmt::layer().compact().with_ansi(ansi).with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
    if done.is_ok() {
        panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// A panic is a bug and is logged as one line, like everything else; the task or request it happened in ends.
fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let said = info.payload_as_str().unwrap_or("no message");
    tracing::error!(place, said, "a part of the program panicked");
    metrics::counter!("tessera_panics_total").increment(1);
}

/// Sets the gauges of this process: memory, threads, open files, CPU. Called before a scrape or every few seconds.
pub fn observe_process() {
    if let Ok(status) = fs::read_to_string("/proc/self/status") {
        for line in status.lines() {
            if let Some(kib) = line.strip_prefix("VmRSS:") {
                set("process_resident_memory_bytes", first_number(kib) * 1024.0);
            } else if let Some(threads) = line.strip_prefix("Threads:") {
                set("process_threads", first_number(threads));
            }
        }
    }
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        set("process_cpu_seconds", cpu_seconds(&stat));
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        set("process_open_fds", f64::from(u32::try_from(entries.count()).unwrap_or(u32::MAX)));
    }
}

fn set(name: &'static str, value: f64) {
    metrics::gauge!(name).set(value);
}

fn first_number(text: &str) -> f64 {
    text.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// User and system time of /proc/<pid>/stat, in whose second field blanks and brackets may stand.
fn cpu_seconds(stat: &str) -> f64 {
    /// USER_HZ, which Linux fixes for /proc whatever the kernel's own tick is.
    const TICKS: f64 = 100.0;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_a_strange_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 1 1 1";
        assert!((cpu_seconds(stat) - 3.0).abs() < 1e-9);
        assert!(cpu_seconds("").abs() < 1e-9);
    }

    #[test]
    fn a_bad_filter_is_an_error() {
        let settings = LogSettings { log_filter: "tessera=loud".into(), log_format: LogFormat::Compact };
        assert!(init(&settings).is_err());
    }
}
