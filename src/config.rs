//! Settings: one struct a concern, each field a flag and an environment variable of the same meaning.
//!
//! Precedence is flag, then variable, then default; there is no settings file, so that what runs can be read off the
//! process. Sizes and times say their unit. Nothing here looks at the clock, the network or the database.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::{Args, Parser, ValueEnum};
use sqlx::postgres::PgConnectOptions;

use crate::{
    db::{lane, pool::OfficeSettings},
    job::runner,
    partition::{Keep, Plans, plans},
};

/// Everything that can be set. Built by clap, or field by field from `Settings::default()` in tests.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    #[command(flatten)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    pub secrets: SecretSettings,
    #[command(flatten)]
    pub chain: ChainSettings,
    #[command(flatten)]
    pub partitions: PartitionSettings,
    #[command(flatten)]
    pub server: ServerSettings,
    #[command(flatten)]
    pub lane: LaneSettings,
    #[command(flatten)]
    pub cache: CacheSettings,
    #[command(flatten)]
    pub limits: LimitSettings,
    #[command(flatten)]
    pub jobs: JobSettings,
    #[command(flatten)]
    pub log: LogSettings,
}

impl Default for Settings {
    /// The defaults of the flags; variables of the environment that are set count as well.
    fn default() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            settings: Settings,
        }
        Alone::parse_from(["tessera"]).settings
    }
}

/// Where the data is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Database")]
pub struct DatabaseSettings {
    /// Directory of Tessera's own PostgreSQL; used when no database URL is given.
    #[arg(long, env = "TESSERA_DATA_DIR", default_value = "data", global = true, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The database to use, as the service's role: postgres://user:password@host/name. Without it, Tessera runs its own.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true, value_name = "URL")]
    pub database_url: Option<DatabaseUrl>,
    /// The same database as the role that migrates and makes partitions; default: the database URL.
    #[arg(long, env = "TESSERA_OWNER_URL", hide_env_values = true, global = true, value_name = "URL")]
    pub owner_url: Option<DatabaseUrl>,
    /// Directory of PostgreSQL's `initdb` and `postgres`; default: PATH, then /usr/lib/postgresql/*/bin.
    #[arg(long, env = "TESSERA_PG_BIN", global = true, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// Seconds or minutes to wait for a database to answer.
    #[arg(long, env = "TESSERA_CONNECT_TIMEOUT", default_value = "5s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub connect_timeout: Duration,
    /// Connections of the office: everything that is not a till's hot path.
    #[arg(long, env = "TESSERA_OFFICE_CONNECTIONS", default_value_t = 8, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub office_connections: u16,
    /// Callers that may wait for an office connection before the next is refused.
    #[arg(
        long,
        env = "TESSERA_OFFICE_QUEUE_MAX",
        default_value_t = 256,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub office_queue_max: usize,
    /// How long a caller waits for an office connection.
    #[arg(long, env = "TESSERA_OFFICE_WAIT", default_value = "2s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub office_wait: Duration,
    /// Longest statement of the office.
    #[arg(long, env = "TESSERA_OFFICE_STATEMENT_TIMEOUT", default_value = "30s", value_parser = parse_duration,
          global = true, hide_short_help = true, value_name = "TIME")]
    pub office_statement_timeout: Duration,
}

impl DatabaseSettings {
    /// True when Tessera starts a PostgreSQL of its own.
    pub fn is_embedded(&self) -> bool {
        self.database_url.is_none()
    }

    pub fn office(&self) -> OfficeSettings {
        OfficeSettings {
            connections_max: usize::from(self.office_connections),
            waiting_max: self.office_queue_max,
            wait_max: self.office_wait,
            connect_max: self.connect_timeout,
            statement_timeout: self.office_statement_timeout,
            ..OfficeSettings::default()
        }
    }
}

/// A database URL that does not show its password.
///
/// One that cannot be read is kept as such until it is used: clap would print it, password and all.
#[derive(Clone)]
pub struct DatabaseUrl(Result<PgConnectOptions, BadDatabaseUrl>);

/// The text is not a database URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the database URL is not of the form postgres://user:password@host:port/name")]
pub struct BadDatabaseUrl;

impl DatabaseUrl {
    /// # Errors
    /// [`BadDatabaseUrl`].
    pub fn options(&self) -> Result<PgConnectOptions, BadDatabaseUrl> {
        self.0.clone()
    }
}

/// Where connection options point to, without user or password.
pub fn place(options: &PgConnectOptions) -> String {
    let host = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    format!("{} at {host}", options.get_database().unwrap_or(options.get_username()))
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("DatabaseUrl").field(&self.0.as_ref().map(place)).finish()
    }
}

impl From<&str> for DatabaseUrl {
    fn from(text: &str) -> Self {
        // sqlx takes any scheme.
        let known = ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme));
        Self(if known { PgConnectOptions::from_str(text).map_err(|_| BadDatabaseUrl) } else { Err(BadDatabaseUrl) })
    }
}

/// Where the keys are that encrypt, index and check.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Secrets")]
pub struct SecretSettings {
    /// File of keys, mode 0600. Default: .tessera-secrets.toml beside the data directory; with a database URL
    /// $XDG_CONFIG_HOME/tessera/secrets.toml, or /etc/tessera/secrets.toml for root.
    #[arg(long, env = "TESSERA_SECRETS_FILE", global = true, value_name = "FILE")]
    pub secrets_file: Option<PathBuf>,
    /// Command that prints what the file would hold; used in place of the file.
    #[arg(
        long,
        env = "TESSERA_SECRETS_COMMAND",
        global = true,
        value_name = "COMMAND",
        conflicts_with = "secrets_file"
    )]
    pub secrets_command: Option<String>,
    /// How often a node looks whether the secrets have changed. Default: every second for a file, every 30 for a command.
    #[arg(long, env = "TESSERA_SECRETS_EVERY", value_parser = parse_duration, global = true, hide_short_help = true,
          value_name = "TIME")]
    pub secrets_every: Option<Duration>,
}

impl SecretSettings {
    pub fn every(&self) -> Duration {
        let is_command = self.secrets_command.is_some();
        self.secrets_every.unwrap_or(Duration::from_secs(if is_command { 30 } else { 1 }))
    }
}

/// What the chain decided once.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Chain")]
pub struct ChainSettings {
    /// Business time zone, an IANA name. Set once: a database keeps the zone it was made with.
    #[arg(long, env = "TESSERA_ZONE", default_value = "Asia/Shanghai", value_parser = parse_zone, global = true,
          value_name = "ZONE")]
    pub zone: chrono_tz::Tz,
    /// Region of phone numbers that are written without a country code.
    #[arg(long, env = "TESSERA_PHONE_REGION", default_value = "CN", value_parser = parse_region, global = true,
          value_name = "REGION")]
    pub phone_region: String,
    /// Days back for which request numbers are accepted; above 35 only if `request` is kept so long (--retain) and has
    /// its leaves (`tessera partitions make`).
    #[arg(long, env = "TESSERA_REQUEST_DAYS_BACK", default_value_t = 35, global = true, hide_short_help = true,
          value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=36_500))]
    pub request_days_back: u16,
    /// Days ahead for which request numbers are accepted.
    #[arg(long, env = "TESSERA_REQUEST_DAYS_AHEAD", default_value_t = 1, global = true, hide_short_help = true,
          value_name = "DAYS", value_parser = clap::value_parser!(u16).range(0..=3))]
    pub request_days_ahead: u16,
}

/// How long rows are kept.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Partitions")]
pub struct PartitionSettings {
    /// Keep a table's leaves for another time than its plan says, by comma: `coupon=none`, `redemption=60 months`.
    #[arg(long, env = "TESSERA_RETAIN", value_delimiter = ',', global = true, value_name = "TABLE=TIME")]
    pub retain: Vec<Keep>,
}

impl PartitionSettings {
    /// The plans as they are kept here.
    pub fn plans(&self) -> &'static Plans {
        plans().keeping(&self.retain)
    }
}

/// The HTTP side.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct ServerSettings {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, env = "TESSERA_LISTEN", default_value = "127.0.0.1:8080", global = true, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Certificate chain (PEM); with it Tessera speaks TLS, HTTP/2 included.
    #[arg(long, env = "TESSERA_TLS_CERT", requires = "tls_key", global = true, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of the certificate.
    #[arg(long, env = "TESSERA_TLS_KEY", requires = "tls_cert", global = true, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// HTTP worker threads; default: one a core, at most 8.
    #[arg(long, env = "TESSERA_HTTP_WORKERS", global = true, hide_short_help = true, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub http_workers: Option<u16>,
    /// Open connections; more wait in the listen queue.
    #[arg(
        long,
        env = "TESSERA_CONNECTIONS_MAX",
        default_value_t = 25_000,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub connections_max: usize,
    /// Largest request body in bytes.
    #[arg(
        long,
        env = "TESSERA_BODY_BYTES_MAX",
        default_value_t = 65_536,
        global = true,
        hide_short_help = true,
        value_name = "BYTES"
    )]
    pub body_bytes_max: usize,
    /// Time for a request's head to arrive.
    #[arg(long, env = "TESSERA_HEAD_TIMEOUT", default_value = "5s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub head_timeout: Duration,
    /// Time for a request's body to arrive.
    #[arg(long, env = "TESSERA_BODY_TIMEOUT", default_value = "10s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub body_timeout: Duration,
    /// Time after which a request that waits for us is answered 503.
    #[arg(long, env = "TESSERA_ANSWER_TIMEOUT", default_value = "15s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub answer_timeout: Duration,
    /// How long an idle connection is kept.
    #[arg(long, env = "TESSERA_KEEP_ALIVE", default_value = "75s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub keep_alive: Duration,
    /// On SIGTERM, time for accepted requests to finish.
    #[arg(long, env = "TESSERA_SHUTDOWN_TIMEOUT", default_value = "30s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub shutdown_timeout: Duration,
}

impl ServerSettings {
    pub fn workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.http_workers.map_or(cores.min(8), usize::from)
    }
}

/// The hot path to the database.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Lane")]
pub struct LaneSettings {
    /// Connections that read.
    #[arg(long, env = "TESSERA_LANE_READERS", default_value_t = 4, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lane_readers: u16,
    /// Connections that read while reads wait for the disk. On pages in memory more than a few only thin the batches.
    #[arg(long, env = "TESSERA_LANE_READERS_MAX", default_value_t = 16, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lane_readers_max: u16,
    /// Connections that write: more only thin the batches.
    #[arg(long, env = "TESSERA_LANE_WRITERS", default_value_t = 2, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub lane_writers: u16,
    /// Most reads in one statement.
    #[arg(long, env = "TESSERA_READ_BATCH_MAX", default_value_t = 256, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub read_batch_max: u16,
    /// Most writes in one transaction; 1 turns batching off. Each takes a place in the server's table of locks.
    #[arg(long, env = "TESSERA_WRITE_BATCH_MAX", default_value_t = 64, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub write_batch_max: u16,
    /// Leaves of one table that a batch addresses one by one; with more it goes through the parent.
    #[arg(long, env = "TESSERA_LEAVES_MAX", default_value_t = 6, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub leaves_max: u16,
    /// Reads, and writes, that may wait; one more is answered 503.
    #[arg(long, env = "TESSERA_QUEUE_MAX", default_value_t = 4096, global = true, hide_short_help = true,
          value_name = "N", value_parser = parse_positive)]
    pub queue_max: usize,
    /// What waited longer for its turn is answered 503, not executed; and a transaction that did nothing for so long (but
    /// at least a second) is ended by the server.
    #[arg(long, env = "TESSERA_LANE_WAIT_MAX", default_value = "3s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub lane_wait_max: Duration,
    /// Longest time of one batch, seen from this side of the connection.
    #[arg(long, env = "TESSERA_BATCH_TIMEOUT", default_value = "10s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub batch_timeout: Duration,
    /// Longest statement of the lane.
    #[arg(long, env = "TESSERA_LANE_STATEMENT_TIMEOUT", default_value = "5s", value_parser = parse_duration,
          global = true, hide_short_help = true, value_name = "TIME")]
    pub lane_statement_timeout: Duration,
    /// Longest wait for a lock in the lane; what waited for so long tries again until its own wait is over.
    #[arg(long, env = "TESSERA_LANE_LOCK_TIMEOUT", default_value = "500ms", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub lane_lock_timeout: Duration,
    /// Prepared statements kept per lane connection, about 35 KiB each; of one that writes, twice as many.
    #[arg(long, env = "TESSERA_LANE_STATEMENTS_MAX", default_value_t = 512, global = true, hide_short_help = true,
          value_name = "N", value_parser = parse_positive)]
    pub lane_statements_max: usize,
}

impl LaneSettings {
    pub fn lane(&self) -> lane::LaneSettings {
        lane::LaneSettings {
            read_connections: usize::from(self.lane_readers),
            read_connections_max: usize::from(self.lane_readers_max),
            write_connections: usize::from(self.lane_writers),
            read_batch_max: usize::from(self.read_batch_max),
            write_batch_max: usize::from(self.write_batch_max),
            queue_max: self.queue_max,
            leaves_max: usize::from(self.leaves_max),
            statements_max: self.lane_statements_max,
            wait_max: self.lane_wait_max,
            batch_timeout: self.batch_timeout,
            lock_timeout: self.lane_lock_timeout,
            statement_timeout: self.lane_statement_timeout,
        }
    }
}

/// What is kept in memory.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Caches")]
pub struct CacheSettings {
    /// Bytes that members, their identifiers and rules may take in memory, together.
    #[arg(
        long,
        env = "TESSERA_CACHE_BYTES_MAX",
        default_value_t = 536_870_912,
        global = true,
        hide_short_help = true,
        value_name = "BYTES"
    )]
    pub cache_bytes_max: u64,
    /// Longest time for which an entry is believed, should the news of a change not arrive.
    #[arg(long, env = "TESSERA_CACHE_TTL", default_value = "60s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub cache_ttl: Duration,
    /// Pause between two looks for changes that other processes made.
    #[arg(long, env = "TESSERA_TAIL_PAUSE", default_value = "100ms", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub tail_pause: Duration,
}

impl CacheSettings {
    /// Bytes of a cache that may take so many eighths of the whole.
    pub fn eighths(&self, eighths: u64) -> u64 {
        self.cache_bytes_max / 8 * eighths
    }
}

/// How much one caller may ask.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitSettings {
    /// Requests a second of one API key; 0 is no limit.
    #[arg(
        long,
        env = "TESSERA_RATE_PER_SECOND",
        default_value_t = 2_000,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub rate_per_second: u32,
    /// Requests one API key may send at once above its rate.
    #[arg(
        long,
        env = "TESSERA_RATE_BURST",
        default_value_t = 4_000,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub rate_burst: u32,
    /// Coupon codes that fail their check, per API key and minute, before it is told to wait; 0 is no limit.
    #[arg(
        long,
        env = "TESSERA_BAD_CODES_PER_MINUTE",
        default_value_t = 30,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub bad_codes_per_minute: u32,
    /// Unmasked answers per API key and minute, before it is told to wait; 0 is no limit.
    #[arg(
        long,
        env = "TESSERA_REVEALS_PER_MINUTE",
        default_value_t = 30,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub reveals_per_minute: u32,
    /// Failed authentications per address and minute before it is told to wait; 0 is no limit.
    #[arg(
        long,
        env = "TESSERA_BAD_KEYS_PER_MINUTE",
        default_value_t = 60,
        global = true,
        hide_short_help = true,
        value_name = "N"
    )]
    pub bad_keys_per_minute: u32,
}

/// Work that is done in slices: imports, issue jobs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Jobs")]
pub struct JobSettings {
    /// Jobs that this node works on at once; 0 leaves them to other nodes.
    #[arg(long, env = "TESSERA_JOBS_AT_ONCE", default_value_t = 2, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(0..=64))]
    pub jobs_at_once: u16,
    /// Rows of one transaction at most, five times as many of a count without a limit; fewer where it takes too long.
    #[arg(long, env = "TESSERA_JOB_SLICE_ROWS", default_value_t = 4_000, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub job_slice_rows: u32,
    /// Time after which another node takes over the job of one that died.
    #[arg(long, env = "TESSERA_JOB_LEASE", default_value = "15s", value_parser = parse_duration, global = true,
          hide_short_help = true, value_name = "TIME")]
    pub job_lease: Duration,
    /// Files that this node takes in at once.
    #[arg(long, env = "TESSERA_UPLOADS_AT_ONCE", default_value_t = 8, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub uploads_at_once: u16,
    /// Jobs of one caller that have not ended, at most.
    #[arg(long, env = "TESSERA_JOBS_OPEN_MAX", default_value_t = 100, global = true, hide_short_help = true,
          value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub jobs_open_max: u16,
    /// Days for which jobs that have ended are kept, with what failed in them.
    #[arg(long, env = "TESSERA_JOB_RETAIN_DAYS", default_value_t = 90, global = true, hide_short_help = true,
          value_name = "DAYS", value_parser = clap::value_parser!(u16).range(7..=3_650))]
    pub job_retain_days: u16,
    /// Largest file of a job in bytes, unpacked.
    #[arg(
        long,
        env = "TESSERA_UPLOAD_BYTES_MAX",
        default_value_t = 4_294_967_296,
        global = true,
        hide_short_help = true,
        value_name = "BYTES"
    )]
    pub upload_bytes_max: u64,
}

impl JobSettings {
    pub fn jobs(&self) -> runner::JobSettings {
        runner::JobSettings {
            hands: usize::from(self.jobs_at_once),
            slice_rows_max: self.job_slice_rows as usize,
            lease: self.job_lease,
            uploads_max: usize::from(self.uploads_at_once),
            open_max: i64::from(self.jobs_open_max),
            retain: chrono::TimeDelta::days(i64::from(self.job_retain_days)),
        }
    }
}

/// What is said, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// What is logged: error, warn, info, debug, trace, or by module as in "info,tessera::db=debug".
    #[arg(long = "log", env = "TESSERA_LOG", default_value = "info", global = true, value_name = "FILTER")]
    pub log_filter: String,
    /// One line of text or of JSON an event.
    #[arg(long, env = "TESSERA_LOG_FORMAT", default_value = "compact", global = true, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Compact,
    Json,
}

/// Reads `250ms`, `5s`, `2m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number: u32 = number.parse().map_err(|_| "a time is a whole number and ms, s, m or h, as in 5s".to_owned())?;
    let duration = match unit {
        "ms" => Duration::from_millis(u64::from(number)),
        "s" => Duration::from_secs(u64::from(number)),
        "m" => Duration::from_secs(60) * number,
        "h" => Duration::from_secs(3600) * number,
        _ => return Err("a time ends in ms, s, m or h, as in 5s".to_owned()),
    };
    if duration.is_zero() { Err("a time is longer than nothing".to_owned()) } else { Ok(duration) }
}

fn parse_zone(text: &str) -> Result<chrono_tz::Tz, String> {
    text.parse().map_err(|_| "it is not an IANA time zone such as Asia/Shanghai".to_owned())
}

fn parse_region(text: &str) -> Result<String, String> {
    match text.parse::<phonenumber::country::Id>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("it is not a region of two capital letters such as CN".to_owned()),
    }
}

fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(number) if (1..=1_000_000).contains(&number) => Ok(number),
        _ => Err("it is not a number from 1 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_is_not_nothing() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "5", "s", "5d", "-1s", "1.5s", "0s", "99999999999s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_database_url_does_not_show_its_password() {
        let url = DatabaseUrl::from("postgres://till:hunter2@db.example:6432/tessera");
        assert_eq!(place(&url.options().expect("a good URL")), "tessera at db.example:6432");
        assert!(!format!("{url:?}").contains("hunter2"));
        for bad in ["mysql://till:hunter2@db/tessera", "postgres://till:hunter2@db:notaport/tessera", ""] {
            let url = DatabaseUrl::from(bad);
            assert_eq!(url.options().err(), Some(BadDatabaseUrl), "{bad}");
            assert!(!format!("{url:?}").contains("hunter2"));
        }
    }

    #[test]
    fn the_defaults_stand() {
        let settings = Settings::default();
        assert_eq!(settings.chain.request_days_back, 35);
        assert_eq!(settings.lane.write_batch_max, 64);
    }
}
