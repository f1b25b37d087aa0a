//! The dataset builder: fills the real tables through the partition layer, leaf by leaf.
//!
//! A leaf is made without keys, filled by binary `COPY … FREEZE`, given its keys, recorded and attached. As many walks over
//! members or coupons go on at a time as there are cores, each of which fills one leaf or several. What is recorded is not done again, so a build that was killed goes on where it was and ends equal:
//! all that it writes follows from the seed, nonces included. Nothing but it may use the database meanwhile.

mod clear;
mod fill;
mod forecast;
mod leaf;
mod office;
mod progress;
mod raw;
mod rows;
mod source;
mod state;
mod stock;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use rand::{SeedableRng as _, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tessera::{
    boot::{self, Ground},
    clock::{Clock, Zone},
    config::{ChainSettings, DatabaseSettings, SecretSettings, Settings},
    db::migrate,
    id::lease_block,
    partition::{Locked, plans, upkeep},
    secret::{SecretFile, Secrets},
};
use tokio::sync::Mutex;

use crate::dataset::{Dataset, Manifest, Shape};
use fill::{Job, Site};
use forecast::Forecast;
use leaf::Standing;
use progress::Progress;
use source::SOURCES;

const PATIENCE: Duration = Duration::from_secs(60);

/// Which database, and its secrets.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    #[command(flatten)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    pub secrets: SecretSettings,
    #[command(flatten)]
    pub chain: ChainSettings,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub place: Place,
    /// Members, such as 20M.
    #[arg(long, default_value = "1M", value_parser = parse_count)]
    pub members: u64,
    /// Coupons, such as 100M.
    #[arg(long, default_value = "5M", value_parser = parse_count)]
    pub coupons: u64,
    /// The same seed, sizes, instant and secrets give the same rows.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Rules; more with more coupons unless given.
    #[arg(long, value_parser = parse_count)]
    pub rules: Option<u64>,
    /// Stores; more with more coupons unless given.
    #[arg(long, value_parser = parse_count)]
    pub stores: Option<u64>,
    /// The instant up to which things have happened; now unless given.
    #[arg(long, value_name = "INSTANT")]
    pub at: Option<DateTime<Utc>>,
    /// Where to write what load generators need, with API keys.
    #[arg(long, default_value = "dataset.json", value_name = "FILE")]
    pub manifest: PathBuf,
    /// Walks that fill leaves at a time; one a core unless given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
    /// Memory for the keys of a leaf, each, in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub work_mib: u32,
    /// Where the database's data is, to see how much is free there, if the server does not say.
    #[arg(long, value_name = "DIR")]
    pub disk: Option<PathBuf>,
    /// Go on though the forecast does not fit.
    #[arg(long)]
    pub anyway: bool,
    /// Say what it would take, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not measure raw COPY of a part of the rows afterwards.
    #[arg(long)]
    pub no_raw: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct DropArgs {
    #[command(flatten)]
    pub place: Place,
    /// Drop also what a Tessera has written since: redemptions, requests, events, jobs.
    #[arg(long)]
    pub with_all: bool,
}

impl Place {
    /// The settings of a Tessera at this place.
    pub fn settings(&self) -> Settings {
        let (database, secrets, chain) = (self.database.clone(), self.secrets.clone(), self.chain.clone());
        Settings { database, secrets, chain, ..Settings::default() }
    }

    /// Reaches the database, which must be migrated, or starts and makes Tessera's own.
    ///
    /// # Errors
    /// When it is not to be had, or its schema is not this program's.
    pub async fn open(&self) -> anyhow::Result<Ground> {
        let ground = Ground::visit(&self.settings(), &Clock::system(), self.zone()).await?;
        self.check(ground).await
    }

    /// As [`Self::open`]; a database that is not there is not made.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn look(&self) -> anyhow::Result<Ground> {
        let ground = Ground::look(&self.settings(), &Clock::system(), self.zone()).await?;
        self.check(ground).await
    }

    /// As [`Self::open`]; Tessera's own server must not run for somebody else.
    ///
    /// # Errors
    /// As [`Self::open`].
    async fn open_to_fill(&self) -> anyhow::Result<Ground> {
        let ground = Ground::visit_to_fill(&self.settings(), &Clock::system(), self.zone()).await?;
        self.check(ground).await
    }

    async fn check(&self, ground: Ground) -> anyhow::Result<Ground> {
        let settings = self.settings();
        let check = async {
            let mut conn = migrate::connect(&ground.service, settings.database.connect_timeout).await?;
            migrate::check(&mut conn, self.zone().name()).await?;
            migrate::close(conn).await;
            Ok::<_, anyhow::Error>(())
        };
        match check.await {
            Ok(()) => Ok(ground),
            Err(error) => {
                ground.close().await;
                Err(error)
            }
        }
    }

    fn zone(&self) -> Zone {
        Zone::new(self.chain.zone)
    }

    fn ask(&self, at: DateTime<Utc>) -> upkeep::Ask {
        let today = self.zone().day_of(at).to_date();
        upkeep::Ask {
            today,
            now: at,
            past: None,
            leaves_only: true,
            pace: tessera::partition::expire::Pace::of_window(0),
        }
    }
}

/// `20M` and the like.
fn parse_count(text: &str) -> Result<u64, String> {
    let text = text.trim().replace('_', "");
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1_000.0),
        Some((at, 'm' | 'M')) => (&text[..at], 1_000_000.0),
        Some((at, 'g' | 'G')) => (&text[..at], 1_000_000_000.0),
        _ => (text.as_str(), 1.0),
    };
    let count: f64 = digits.parse().map_err(|_| "must be a number, such as 500, 20K, 1.5M or 2G".to_owned())?;
    let count = count * unit;
    if count.fract() != 0.0 || !(1.0..1e13).contains(&count) {
        return Err("must be a whole number, 1 or more".to_owned());
    }
    Ok(count as u64)
}

/// Builds a dataset, or goes on with one.
///
/// # Errors
/// When the database has other rows, or the forecast does not fit, before anything is written; else the database's.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let ground = if args.dry_run { args.place.open().await? } else { args.place.open_to_fill().await? };
    let outcome = build(&args, &ground).await;
    ground.close().await;
    outcome
}

/// Drops a dataset.
///
/// # Errors
/// When the database was not built, or has other rows; nothing is dropped then.
pub async fn clear(args: DropArgs) -> anyhow::Result<()> {
    let ground = args.place.look().await?;
    let outcome = async {
        let mut conn = leaf::connect(&ground.owner, "").await?;
        let mut locked = Locked::open(&ground.owner, plans(), PATIENCE).await?;
        let ask = args.place.ask(Clock::system().now());
        let dropped = clear::run(&mut conn, &mut locked, &ask, args.with_all).await?;
        locked.close().await?;
        println!("dropped {dropped} leaves and the rows of the office; the tables are empty");
        Ok(())
    }
    .await;
    ground.close().await;
    outcome
}

async fn build(args: &Args, ground: &Ground) -> anyhow::Result<()> {
    let started = Instant::now();
    let settings = args.place.settings();
    let at_once = args.jobs.map_or_else(cores, usize::from);
    let work = format!(
        "set maintenance_work_mem = '{}MB'; set max_parallel_maintenance_workers = 0; set synchronous_commit = off; \
         set statement_timeout = 0; set lock_timeout = '10s'",
        args.work_mib
    );
    let mut conn = leaf::connect(&ground.owner, &work).await?;
    let known = state::find(&mut conn).await?;
    let dataset = Dataset::new(&known.clone().map_or_else(|| wanted(args), |(shape, _)| wanted_again(args, shape))?);
    check_fit(args, ground, &mut conn, &dataset, at_once, known.is_some()).await?;
    if args.dry_run {
        return Ok(());
    }
    let mut service = boot::connect(ground, &settings).await?;
    let file = boot::secrets(&settings, &mut service, &mut StdRng::from_os_rng(), Clock::system().now()).await?;
    boot::disconnect(service).await;
    let dataset = if known.is_none() { begin(&mut conn, dataset.shape).await? } else { dataset };
    let (site, jobs) = prepare(args, ground, &mut conn, dataset, &file, (work, at_once)).await?;
    let before = site.progress.done();
    fill::run_all(&site, jobs, at_once).await?;
    finish(&site, &mut conn, at_once).await?;
    site.progress.end();
    let took = started.elapsed();
    let done = state::done(&mut conn).await?;
    let mut rows: BTreeMap<String, u64> = BTreeMap::new();
    let mut spent: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for leaf in done.values() {
        *rows.entry(leaf.table.clone()).or_default() += leaf.rows;
        let spent = spent.entry(&leaf.table).or_default();
        *spent = (spent.0 + leaf.copy_secs, spent.1 + leaf.keys_secs);
    }
    for (table, (copying, keys)) in &spent {
        let (count, micros) = (rows[*table], |secs: f64| secs * 1e6 / rows[*table].max(1) as f64);
        println!(
            "{table:22} {:>14} rows: {:>6.2} µs to copy, {:>5.2} to give keys",
            HumanCount(count).to_string(),
            micros(*copying),
            micros(*keys)
        );
    }
    let all: u64 = rows.values().sum();
    let made = all.saturating_sub(before);
    let secs = took.as_secs_f64();
    println!(
        "{} rows in {}: {} rows/s, {} coupons/s with all their tables and members",
        HumanCount(made),
        HumanDuration(took),
        HumanCount((made as f64 / secs) as u64),
        HumanCount((site.dataset.shape.coupons as f64 / secs) as u64)
    );
    let secrets_file = settings.secrets.secrets_command.is_none().then(|| boot::secrets_path(&settings));
    let secrets_file = secrets_file.map(|path| std::path::absolute(&path).unwrap_or(path));
    let keys = office::make_keys(&mut conn, &site.dataset).await?;
    let mut manifest = Manifest { shape: site.dataset.shape.clone(), secrets_file, keys, rows, rate: None };
    let save = |manifest: &Manifest| {
        manifest.save(&args.manifest).with_context(|| format!("{} cannot be written", args.manifest.display()))
    };
    // What is built can be used whatever becomes of the measurement.
    save(&manifest)?;
    println!("{} says what is there; it holds API keys", args.manifest.display());
    if !args.no_raw && before == 0 {
        let measured = raw::measure(&site, &mut conn, &done, at_once).await?;
        println!("{}", measured.render(all, secs));
        manifest.rate = Some(measured.rate(all, secs));
        save(&manifest)?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The shape that is asked for.
fn wanted(args: &Args) -> anyhow::Result<Shape> {
    let at = args.at.unwrap_or_else(|| Clock::system().now());
    let mut shape = Shape::new(args.seed, args.members, args.coupons, at, args.place.zone());
    shape.rules = args.rules.map_or(shape.rules, |rules| rules.min(u64::from(u32::MAX)) as u32);
    shape.stores = args.stores.map_or(shape.stores, |stores| stores.min(u64::from(u32::MAX)) as u32);
    shape.check().map_err(|why| anyhow::anyhow!("{why}"))?;
    Ok(shape)
}

/// The shape that was begun, if it is the one that is asked for.
fn wanted_again(args: &Args, begun: Shape) -> anyhow::Result<Shape> {
    let wanted = wanted(&Args { at: Some(args.at.unwrap_or(begun.at)), ..args.clone() })?;
    let (first_serial, first_redemption, first_log) = (begun.first_serial, begun.first_redemption, begun.first_log);
    let same = Shape { first_serial, first_redemption, first_log, ..wanted } == begun;
    if !same {
        bail!(
            "this database holds a dataset of seed {} with {} members and {} coupons: go on with that, or `loadtest drop` it",
            begun.seed,
            begun.members,
            begun.coupons
        );
    }
    Ok(begun)
}

/// Refuses a database with rows of others, and what does not fit.
async fn check_fit(
    args: &Args,
    ground: &Ground,
    conn: &mut PgConnection,
    dataset: &Dataset,
    at_once: usize,
    begun: bool,
) -> anyhow::Result<()> {
    if !begun {
        let strangers = clear::strangers(conn).await?;
        if !strangers.is_empty() {
            let some = strangers.iter().take(5).cloned().collect::<Vec<_>>().join("; ");
            bail!("the database must be empty, and it is not: {some}");
        }
    }
    let wal: i64 =
        sqlx::query_scalar("select pg_size_bytes(current_setting('max_wal_size'))").fetch_one(&mut *conn).await?;
    let forecast = Forecast::new(dataset, at_once, u64::from(args.work_mib) << 20, wal as u64);
    println!("{}", forecast.render());
    if begun {
        return Ok(());
    }
    let disk_at = match (&args.disk, ground.embedded()) {
        (Some(given), _) => Some(given.clone()),
        (None, Some(own)) => Some(own.pgdata().to_owned()),
        (None, None) => said_directory(ground, conn).await?,
    };
    let disk = disk_at.as_deref().and_then(forecast::disk_free);
    match (&disk_at, disk) {
        (Some(path), Some(free)) => println!("{} are free at {}", HumanBytes(free), path.display()),
        _ => println!("how much disk is free cannot be seen from here (--disk says where the data is)"),
    }
    match forecast.refusal(disk, forecast::memory_free()) {
        Some(why) if !args.anyway && !args.dry_run => bail!("{why}; --anyway goes on all the same"),
        Some(why) => println!("{why}"),
        None => {}
    }
    Ok(())
}

/// Where a server on this machine has its data, if it tells.
async fn said_directory(ground: &Ground, conn: &mut PgConnection) -> anyhow::Result<Option<PathBuf>> {
    let is_here = ground.owner.get_socket().is_some() || ["localhost", "127.0.0.1"].contains(&ground.owner.get_host());
    let said = sqlx::query_scalar("select setting from pg_settings where name = 'data_directory'");
    let said: Option<Option<String>> = said.fetch_optional(conn).await?;
    Ok(said.flatten().filter(|_| is_here).map(PathBuf::from))
}

/// Leases the numbers of a new dataset, marks the database and writes the office.
async fn begin(conn: &mut PgConnection, mut shape: Shape) -> anyhow::Result<Dataset> {
    sqlx::raw_sql("begin").execute(&mut *conn).await?;
    shape.first_serial = lease_block(conn, "coupon_serial", shape.coupons as i64).await?.start;
    shape.first_redemption = lease_block(conn, "redemption", 2 * shape.coupons as i64).await?.start;
    shape.first_log = lease_block(conn, "event", (shape.members + shape.coupons) as i64).await?.start;
    state::begin(conn, &shape).await?;
    let dataset = Dataset::new(&shape);
    office::insert(conn, &dataset).await?;
    sqlx::raw_sql("commit").execute(&mut *conn).await?;
    Ok(dataset)
}

/// Finds out what is to be done still, and takes the empty leaves away that are to be filled.
async fn prepare(
    args: &Args,
    ground: &Ground,
    conn: &mut PgConnection,
    dataset: Dataset,
    file: &SecretFile,
    (settings, at_once): (String, usize),
) -> anyhow::Result<(Arc<Site>, Vec<Job>)> {
    let locked = Locked::open(&ground.owner, plans(), PATIENCE).await?;
    let done = state::done(conn).await?;
    let (mut keys, mut jobs, mut apart) = (BTreeMap::new(), Vec::new(), Vec::new());
    let (mut total, mut before) = (0, 0);
    let connections = connections_free(conn).await? / at_once;
    for source in SOURCES {
        keys.insert(source.table(), leaf::keys(conn, source.table()).await?);
        total += source.rows(&dataset);
        let leaves = source.leaves(&dataset);
        let mut left = Vec::new();
        for (leaf, standing) in leaf::standings(conn, &leaves).await? {
            match (done.get(&leaf.to_string()), standing) {
                // By age, as requests and events go.
                (Some(built), Standing::Absent) if leaf.plan.range().is_some() => before += built.rows,
                (Some(_), Standing::Absent) => bail!("{leaf} was filled and is gone: `loadtest drop` what is left"),
                (Some(built), Standing::Attached(false)) if built.rows > 0 => {
                    bail!("{leaf} was filled and has no rows: `loadtest drop` what is left")
                }
                (Some(built), standing) => {
                    before += built.rows;
                    apart.extend(Some(leaf).filter(|_| standing == Standing::Apart));
                }
                (None, Standing::Apart | Standing::Attached(true)) => bail!("{leaf} has rows that were not built here"),
                (None, Standing::Attached(false)) => {
                    leaf::take_away(conn, leaf).await?;
                    left.push(leaf);
                }
                (None, Standing::Absent) => left.push(leaf),
            }
        }
        let together = left.chunks(source.leaves_together(leaves.len(), at_once).clamp(1, connections.max(1)));
        jobs.extend(together.map(|leaves| Job { source, leaves: leaves.to_vec() }));
    }
    let secrets = Secrets::new(file, StdRng::from_os_rng()).of(boot::secrets_source(&args.place.settings()));
    let progress = Progress::new(total, before);
    let locked = Mutex::new(locked);
    let site = Site { dataset, secrets, owner: ground.owner.clone(), locked, keys, settings, progress };
    for leaf in apart {
        fill::attach(&site, leaf).await?;
    }
    Ok((Arc::new(site), jobs))
}

/// How many connections the walks may have: each leaf that is being filled has one. Some are left for others.
async fn connections_free(conn: &mut PgConnection) -> anyhow::Result<usize> {
    const OTHERS: i64 = 10;
    let free: i64 = sqlx::query_scalar(
        "select current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
             - (select count(*) from pg_stat_activity where backend_type = 'client backend')",
    )
    .fetch_one(conn)
    .await?;
    Ok(usize::try_from(free - OTHERS).unwrap_or(0))
}

/// What is left when all leaves are filled: the counts of rules, foreign keys, leaves to come, statistics.
async fn finish(site: &Site, conn: &mut PgConnection, at_once: usize) -> anyhow::Result<()> {
    let started = Instant::now();
    if !state::done(conn).await?.contains_key(stock::TABLE) {
        sqlx::raw_sql("begin").execute(&mut *conn).await?;
        let rows = stock::insert(conn, &site.dataset, at_once).await?;
        state::record(conn, stock::TABLE, stock::TABLE, rows, started.elapsed(), Duration::ZERO).await?;
        sqlx::raw_sql("commit").execute(&mut *conn).await?;
    }
    let counted = started.elapsed();
    let ask = upkeep::Ask {
        today: site.dataset.shape.today().to_date(),
        now: site.dataset.shape.at,
        past: None,
        leaves_only: true,
        pace: tessera::partition::expire::Pace::of_window(0),
    };
    upkeep::run(&mut *site.locked.lock().await, plans(), &ask).await?;
    let upkept = started.elapsed();
    analyse(site, at_once).await?;
    let secs = |from: Duration, until: Duration| (until - from).as_secs_f64();
    println!(
        "counts of rules in {:.1} s, leaves to come and foreign keys in {:.1} s, statistics in {:.1} s",
        secs(Duration::ZERO, counted),
        secs(counted, upkept),
        secs(upkept, started.elapsed())
    );
    state::finish(conn).await
}

/// Statistics of all tables, as upkeep makes them for those that have none.
async fn analyse(site: &Site, at_once: usize) -> anyhow::Result<()> {
    let tables = SOURCES.iter().map(|source| source.table()).chain([stock::TABLE]);
    futures_util::stream::iter(tables.map(Ok))
        .try_for_each_concurrent(at_once, async |table| {
            let mut conn = leaf::connect(&site.owner, &site.settings).await?;
            sqlx::raw_sql(AssertSqlSafe(format!("analyze {table}"))).execute(&mut conn).await?;
            Ok(conn.close().await?)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_as_people_do() {
        for (text, count) in
            [("500", 500), ("20K", 20_000), ("1.5M", 1_500_000), ("2g", 2_000_000_000), ("1_000", 1_000)]
        {
            assert_eq!(parse_count(text), Ok(count), "{text}");
        }
        for text in ["", "0", "-1", "M", "1.5", "x", "1e40"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }
}
