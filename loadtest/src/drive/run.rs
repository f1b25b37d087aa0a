//! `loadtest run`: from a workload and a URL to a report.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use tessera::clock::{Clock, Zone};

use super::{
    Verdict,
    baseline::Gate,
    beside::{Besides, beside},
    built::{Built, BuiltArgs},
    check, compare,
    engine::{self, Plan, days_of},
    http::{Ask, Connection, Target},
    journal::{Journal, Pen},
    keys::{Key, Keys},
    prepare::Preparer,
    report,
    result::{Build, Generator, Interrupted, LATENESS_P99_MAX_US, Run},
    stop::{Signals, Stop},
    workload::{Arrivals, Workload},
    world::World,
};

/// Where the load goes and what sends it: common to `run` and `find`.
#[derive(Debug, Clone, clap::Args)]
pub struct AimArgs {
    /// Name of a built-in workload (`loadtest workloads`), or a file.
    #[arg(long, short, default_value = "pos-day", value_name = "NAME|FILE")]
    pub workload: String,
    /// The server; several for several nodes, over which the tills are spread.
    #[arg(
        long,
        short,
        env = "TESSERA_LOAD_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub url: Vec<String>,
    /// File of API keys, a line each: `admin KEY`, `pos KEY STORE`. Default: those lines in TESSERA_LOAD_KEYS.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    #[command(flatten)]
    pub built: BuiltArgs,
    /// Certificates (PEM) that the server's is checked against, in place of the usual ones.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Requests a second, in place of the workload's.
    #[arg(long, value_name = "N")]
    pub rate: Option<f64>,
    /// Length in seconds, in place of the workload's.
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<f64>,
    /// Connections, in place of the workload's.
    #[arg(long, value_name = "N")]
    pub tills: Option<usize>,
    #[arg(long)]
    pub arrivals: Option<Arrivals>,
    /// The same seed sends the same at the same instants.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Event loops of the generator, each on a core.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
    /// Longest time that a till waits for an answer, in seconds.
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS", value_parser = parse_length)]
    pub timeout: f64,
    /// The generator's own lateness above which a run is invalid: p99 in milliseconds.
    #[arg(long, default_value_t = LATENESS_P99_MAX_US as f64 / 1e3, value_name = "MS", value_parser = parse_length)]
    pub lateness_max: f64,
    /// Arrivals that may wait for a till at once: of more, the one that has waited longest counts as an error.
    #[arg(long, default_value_t = engine::WAITING_MAX, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub waiting_max: u64,
    /// The chain's business zone, as the server has it.
    #[arg(long, env = "TESSERA_ZONE", default_value = "Asia/Shanghai", value_name = "ZONE")]
    pub zone: String,
    /// I know that the server is a release build, though its /metrics does not say so or cannot be reached.
    #[arg(long)]
    pub server_is_release: bool,
    /// Debug builds will do, of both sides: for tests, never for figures.
    #[arg(long, env = "TESSERA_LOAD_ALLOW_DEBUG", hide = true)]
    pub allow_debug: bool,
}

/// Runs a workload.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub aim: AimArgs,
    /// Where the result goes, as JSON; page (.html) and journal (.journal) beside it.
    #[arg(long, short, default_value = "load.json", value_name = "FILE")]
    pub out: PathBuf,
    /// Which generator this is, of how many that share the load: `1/3`.
    #[arg(long, default_value = "1/1", value_parser = parse_part, value_name = "N/OF")]
    pub part: (usize, usize),
    /// When to begin (RFC 3339), so that several generators begin together.
    #[arg(long, value_name = "TIME")]
    pub start_at: Option<DateTime<Utc>>,
    /// The database, to check the books afterwards, as any role that may read its tables.
    #[arg(long, env = "TESSERA_CHECK_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// What to be as good as: a result of the same machine, or a baseline (.toml) that holds on any.
    #[arg(long, visible_alias = "baseline", value_name = "FILE")]
    pub gate: Option<PathBuf>,
    #[command(flatten)]
    pub tolerance: compare::Tolerance,
}

/// A result that cannot be kept is known now, not after hours of load. Its directory is known to take the journal.
fn ensure_writable(out: &Path) -> anyhow::Result<()> {
    for beside in ["journal", "html"] {
        ensure!(out.with_extension(beside) != out, "{}: a result has its .{beside} beside it", out.display());
    }
    if out.exists() {
        let opened = std::fs::OpenOptions::new().append(true).open(out);
        opened.with_context(|| format!("{} cannot be written", out.display()))?;
    }
    Ok(())
}

fn parse_part(text: &str) -> Result<(usize, usize), String> {
    let wrong = || "a part is n/of, such as 1/3".to_owned();
    let (n, of) = text.split_once('/').ok_or_else(wrong)?;
    let (n, of): (usize, usize) = (n.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
    if (1..=of).contains(&n) && of <= 1_000 { Ok((n - 1, of)) } else { Err(wrong()) }
}

/// A length of time, up to an hour of milliseconds.
fn parse_length(text: &str) -> Result<f64, String> {
    let length: f64 = text.parse().map_err(|_| "it is a number".to_owned())?;
    if length > 0.0 && length <= 3_600_000.0 { Ok(length) } else { Err("it is above 0 and at most 3600000".to_owned()) }
}

/// A server that was looked at, and how it will be loaded.
pub struct Aim {
    /// Of all generators together.
    pub workload: Workload,
    /// Of them this one, counted from 0, and how many there are.
    part: (usize, usize),
    /// Of the schedule.
    pub seed: u64,
    pub targets: Vec<Target>,
    pub keys: Keys,
    pub server: Build,
    pub generator: Generator,
    /// The server's: this machine's, unless both were shifted.
    pub clock: Clock,
    zone: Zone,
    built: Option<Built>,
    args: AimArgs,
}

impl Aim {
    /// Reads workload and keys, and looks at the servers.
    ///
    /// # Errors
    /// Says what is missing, and refuses debug builds.
    pub async fn take(args: &AimArgs, part: (usize, usize)) -> anyhow::Result<Self> {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        if profile == "debug" && !args.allow_debug {
            bail!(
                "this loadtest is a debug build, whose figures say nothing: cargo run --release -p loadtest -- run …"
            );
        }
        let mut workload = args.workload()?;
        let targets =
            args.url.iter().map(|url| Target::parse(url, args.ca.as_deref())).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(
            workload.coherence.is_none() || targets.len() >= 2,
            "{} is between nodes: name two with --url, or more",
            workload.name
        );
        let built = Built::load(&args.built)?;
        let keys = match &built {
            Some(built) if args.keys.is_none() => built.keys()?,
            _ => Keys::load(args.keys.as_deref())?,
        };
        if let Some(built) = &built {
            built.adapt(&mut workload);
        }
        let mut server = None;
        for target in &targets {
            let build = build_of(target, &keys.admin, args).await?;
            ensure!(server.is_none() || server.as_ref() == Some(&build), "the nodes are of different builds");
            server = Some(build);
        }
        let (clock, zone) = (Clock::system(), Zone::parse(&args.zone)?);
        let generator = Generator {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: profile.to_owned(),
            generators: 1,
            threads: usize::from(args.threads),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            lateness_p99_max_us: (args.lateness_max * 1e3) as u64,
        };
        let server = server.context("name a server with --url")?;
        let seed = args.seed;
        Ok(Self { workload, part, seed, targets, keys, server, generator, clock, zone, built, args: args.clone() })
    }

    /// Makes what the workload needs, or takes it from the dataset; notes what a reader must know.
    ///
    /// # Errors
    /// Says what could not be made.
    pub async fn prepare(&self, run: &str, pen: &mut Pen) -> anyhow::Result<(World, Vec<String>)> {
        let preparer = self.preparer(run);
        let Some(built) = &self.built else { return Ok((preparer.all(pen).await?, Vec::new())) };
        let (mut world, next) = built.world(&self.keys, self.share().coupons_wanted(), self.args.seed, self.part)?;
        world.rules = preparer.rules().await?;
        Ok((world, vec![format!("the next run on this dataset begins at --ticket {next}")]))
    }

    /// The chain's business day.
    fn today(&self) -> NaiveDate {
        self.zone.day_of(self.clock.now()).to_date()
    }

    /// What this generator sends of the workload.
    pub fn share(&self) -> Workload {
        Workload { rate: self.workload.rate / self.part.1 as f64, ..self.workload.clone() }
    }

    pub fn preparer<'a>(&'a self, run: &'a str) -> Preparer<'a> {
        let issued_on = self.workload.business_days.map(|days| days_of(days, self.today()).0);
        Preparer {
            target: &self.targets[0],
            keys: &self.keys,
            workload: &self.workload,
            coupons: self.share().coupons_wanted(),
            seed: self.args.seed,
            run,
            issued_on,
        }
    }

    fn plan(&self, run: &str, stop: &Stop) -> Plan {
        Plan {
            workload: self.workload.clone(),
            targets: self.targets.clone(),
            seed: self.seed,
            part: self.part.0,
            parts: self.part.1,
            threads: usize::from(self.args.threads),
            run: run.to_owned(),
            clock: self.clock.clone(),
            zone: self.zone,
            timeout: Duration::from_secs_f64(self.args.timeout),
            // Several generators share the bound out, as the rate.
            waiting_max: self.args.waiting_max.div_ceil(self.part.1 as u64),
            after: engine::AFTER,
            stop: stop.clone(),
        }
    }
}

impl AimArgs {
    /// The workload with what the command line has in its place.
    fn workload(&self) -> anyhow::Result<Workload> {
        let mut workload = Workload::load(&self.workload)?;
        workload.rate = self.rate.unwrap_or(workload.rate);
        workload.seconds = self.seconds.unwrap_or(workload.seconds);
        workload.tills = self.tills.unwrap_or(workload.tills);
        workload.arrivals = self.arrivals.unwrap_or(workload.arrivals);
        workload.check()?;
        let threads = usize::from(self.threads);
        ensure!(workload.tills >= threads, "{} tills for {threads} threads: each needs one", workload.tills);
        Ok(workload)
    }
}

/// A name that no other run has, which sorts by time. Generators that begin in the same millisecond differ by their part.
pub fn fresh_name((part, parts): (usize, usize)) -> String {
    let mut ms = Clock::system().now().timestamp_millis().unsigned_abs();
    let mut name = Vec::new();
    while ms > 0 {
        name.push(char::from_digit((ms % 36) as u32, 36).unwrap_or('0'));
        ms /= 36;
    }
    let name: String = name.iter().rev().collect();
    if parts > 1 { format!("{name}p{}", part + 1) } else { name }
}

/// What the server says of its build; refuses one that is no release build.
async fn build_of(target: &Target, key: &Key, args: &AimArgs) -> anyhow::Result<Build> {
    let mut connection = Connection::new(target.clone(), Duration::from_secs(30));
    connection.connect().await.with_context(|| format!("is a Tessera running at {}?", target.url))?;
    let (_, reply) = connection.ask(Ask::get("/metrics", key)).await;
    let text = reply.map(|reply| String::from_utf8_lossy(&reply.body).into_owned()).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("tessera_build_info{")).unwrap_or_default();
    let label = |name: &str| {
        let rest = line.split_once(&format!("{name}=\""))?.1;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let build = Build {
        version: label("version").unwrap_or_else(|| "unknown".to_owned()),
        profile: label("profile").unwrap_or_else(|| "unknown".to_owned()),
    };
    if build.profile != "release" && !args.allow_debug && !(args.server_is_release && build.profile == "unknown") {
        bail!(
            "the server at {} is a {} build, whose figures say nothing: serve `cargo build --release`; where /metrics \
             cannot be reached from here, vouch for it with --server-is-release",
            target.url,
            build.profile
        );
    }
    Ok(build)
}

/// # Errors
/// When the load cannot be sent.
pub async fn run(args: &RunArgs) -> anyhow::Result<Verdict> {
    let aim = Aim::take(&args.aim, args.part).await?;
    let share = aim.share();
    share.ensure_tills()?;
    let gate = args.gate.as_deref().map(Gate::load).transpose()?;
    if args.database_url.is_none() && gate.as_ref().is_some_and(Gate::asks_for_books) {
        bail!("the baseline judges by the books: say where the database is, with --database-url");
    }
    if let Some(url) = &args.database_url {
        // A wrong one is known now, not after hours of load.
        drop(check::connect(url).await?);
    }
    ensure_writable(&args.out)?;
    let name = fresh_name(args.part);
    let journal = Journal::create(&args.out.with_extension("journal"))?;
    let (urls, began) = (args.aim.url.join(", "), Instant::now());
    eprintln!(
        "{}: {} requests/s for {} s over {} tills to {urls}; preparing",
        share.name, share.rate, share.seconds, share.tills
    );
    let (world, notes) = aim.prepare(&name, &mut journal.pen()).await?;
    let (people, coupons) = (world.people.len(), world.coupons.len());
    eprintln!("prepared {people} members and {coupons} coupons in {:.1} s; running", began.elapsed().as_secs_f64());
    // From here on there is something to keep.
    let signals = Signals::listen()?;
    let mut run = drive(&aim, &name, Arc::new(world), &journal, args.start_at, &signals.stop()).await?.0;
    run.journals.push(std::path::absolute(&journal.path)?);
    run.notes.extend(notes);
    run.mishaps.extend(journal.close().err().map(|error| format!("{error:#}")));
    // Before the books are looked at: whatever comes of that, what was measured is kept.
    run.save(&args.out)?;
    signals.over();
    if let Some(url) = &args.database_url {
        run.findings = Some(
            look(url, &run)
                .await
                .with_context(|| format!("{} is kept; look at the books with `loadtest check`", args.out.display()))?,
        );
    }
    report::save(&run, &args.out)?;
    let verdict = report::verdict(&run);
    let Some(gate) = gate else { return Ok(verdict) };
    let gated = gate.judge(&run, &args.tolerance);
    print!("{}", gated.text);
    Ok(if gated.worse.is_empty() { verdict } else { Verdict::Failed })
}

async fn look(url: &str, run: &Run) -> anyhow::Result<Vec<check::Finding>> {
    check::of_run(&mut check::connect(url).await?, run).await
}

/// Sends the load, with what goes on beside it; gives the result and the first coupon that is left. What goes wrong beside
/// the tills makes the run a failed one and leaves what was measured.
///
/// # Errors
/// When the load cannot be sent.
pub async fn drive(
    aim: &Aim,
    name: &str,
    world: Arc<World>,
    journal: &Journal,
    start_at: Option<DateTime<Utc>>,
    stop: &Stop,
) -> anyhow::Result<(Run, usize)> {
    let plan = aim.plan(name, stop);
    let late = match start_at.map(|at| at - Clock::system().now()) {
        Some(left) => {
            stop.is_going_at(Instant::now() + left.to_std().unwrap_or_default()).await;
            (-left).to_std().ok()
        }
        None => None,
    };
    let (beside, began) = beside(aim, &world, journal.pen(), stop.clone());
    let coupons = world.coupons.len();
    let outcome = engine::run(&plan, world, journal, move |at| {
        let _ = began.send(at);
    })
    .await?;
    let Besides { coherent, notes, mishaps } = beside.await?;
    let urls = aim.targets.iter().map(|target| target.url.clone()).collect();
    let (server, generator) = (aim.server.clone(), aim.generator.clone());
    let started_at = outcome.started_at;
    let mut run = Run::new(name.to_owned(), aim.share(), aim.seed, started_at, urls, server, generator, outcome.record);
    (run.coherence, run.notes, run.mishaps) = (coherent, notes, mishaps);
    run.interrupted = outcome.stopped_after.map(|after| Interrupted { after_seconds: after.as_secs_f64() });
    for (what, profile) in [("the server", &run.server.profile), ("loadtest", &run.generator.profile)] {
        if profile != "release" {
            run.notes.push(format!("{what} is a build of profile {profile}: its times are no figures"));
        }
    }
    if let Some(late) = late.filter(|late| !late.is_zero()) {
        run.notes.push(format!("it began {:.1} s after --start-at: preparing took longer", late.as_secs_f64()));
    }
    if outcome.coupons_next > coupons && coupons > 0 && aim.workload.coupons == super::workload::CouponChoice::EachOnce
    {
        run.notes
            .push(format!("the {coupons} coupons were spent before the end: give prepare.coupons, or leave it out"));
    }
    Ok((run, outcome.coupons_next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_could_not_be_kept_is_refused_before_the_load() {
        let dir = tempfile::tempdir().unwrap();
        ensure_writable(&dir.path().join("load.json")).unwrap();
        assert!(!dir.path().join("load.json").exists());
        for (name, says) in [("", "cannot be written"), ("a.journal", ".journal beside"), ("a.html", ".html beside")] {
            let refused = ensure_writable(&dir.path().join(name)).unwrap_err();
            assert!(format!("{refused:#}").contains(says), "{refused:#}");
        }
    }
}
