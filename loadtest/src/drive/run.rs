//! `loadtest run`: from a workload and a URL to a report.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use tessera::clock::{Clock, Zone};

use super::{
    Verdict,
    built::{Built, BuiltArgs},
    check,
    coherence::{self, Coherent},
    compare,
    engine::{self, Plan, days_of},
    http::{Ask, Connection, Target},
    journal::{Journal, Pen},
    keys::{Key, Keys},
    office::Office,
    prepare::{Preparer, journal_job},
    report,
    result::{Build, Generator, LATENESS_P99_MAX_US, Run},
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
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub timeout: f64,
    /// The generator's own lateness above which a run is invalid: p99 in milliseconds.
    #[arg(long, default_value_t = LATENESS_P99_MAX_US as f64 / 1e3, value_name = "MS")]
    pub lateness_max: f64,
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
    /// A result to be as good as.
    #[arg(long, value_name = "FILE")]
    pub gate: Option<PathBuf>,
    #[command(flatten)]
    pub tolerance: compare::Tolerance,
}

fn parse_part(text: &str) -> Result<(usize, usize), String> {
    let wrong = || "a part is n/of, such as 1/3".to_owned();
    let (n, of) = text.split_once('/').ok_or_else(wrong)?;
    let (n, of): (usize, usize) = (n.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?);
    if (1..=of).contains(&n) && of <= 1_000 { Ok((n - 1, of)) } else { Err(wrong()) }
}

/// A server that was looked at, and how it will be loaded.
pub struct Aim {
    pub workload: Workload,
    pub targets: Vec<Target>,
    pub keys: Keys,
    pub server: Build,
    pub generator: Generator,
    pub today: NaiveDate,
    built: Option<Built>,
    args: AimArgs,
}

impl Aim {
    /// Reads workload and keys, and looks at the servers.
    ///
    /// # Errors
    /// Says what is missing, and refuses debug builds.
    pub async fn take(args: &AimArgs) -> anyhow::Result<Self> {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        if profile == "debug" && !args.allow_debug {
            bail!(
                "this loadtest is a debug build, whose figures say nothing: cargo run --release -p loadtest -- run …"
            );
        }
        let mut workload = Workload::load(&args.workload)?;
        workload.rate = args.rate.unwrap_or(workload.rate);
        workload.seconds = args.seconds.unwrap_or(workload.seconds);
        workload.tills = args.tills.unwrap_or(workload.tills);
        workload.arrivals = args.arrivals.unwrap_or(workload.arrivals);
        workload.check()?;
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
        let zone = Zone::parse(&args.zone)?;
        let today = zone.day_of(Clock::system().now()).to_date();
        let generator = Generator {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: profile.to_owned(),
            generators: 1,
            threads: usize::from(args.threads),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            lateness_p99_max_us: (args.lateness_max * 1e3) as u64,
        };
        let server = server.context("name a server with --url")?;
        Ok(Self { workload, targets, keys, server, generator, today, built, args: args.clone() })
    }

    /// Makes what the workload needs, or takes it from the dataset; notes what a reader must know.
    ///
    /// # Errors
    /// Says what could not be made.
    pub async fn prepare(&self, run: &str, pen: &mut Pen) -> anyhow::Result<(World, Vec<String>)> {
        let preparer = self.preparer(run);
        let Some(built) = &self.built else { return Ok((preparer.all(pen).await?, Vec::new())) };
        let (mut world, next) = built.world(&self.keys, self.workload.coupons_wanted(), self.args.seed)?;
        world.rules = preparer.rules().await?;
        Ok((world, vec![format!("the next run on this dataset begins at --ticket {next}")]))
    }

    pub fn preparer<'a>(&'a self, run: &'a str) -> Preparer<'a> {
        let issued_on = self.workload.business_days.map(|days| days_of(days, self.today).0);
        Preparer {
            target: &self.targets[0],
            keys: &self.keys,
            workload: &self.workload,
            seed: self.args.seed,
            run,
            issued_on,
        }
    }

    fn plan(&self, run: &str, part: (usize, usize)) -> Plan {
        Plan {
            workload: self.workload.clone(),
            targets: self.targets.clone(),
            seed: self.args.seed,
            part: part.0,
            parts: part.1,
            threads: usize::from(self.args.threads),
            run: run.to_owned(),
            today: self.today,
            timeout: Duration::from_secs_f64(self.args.timeout),
        }
    }
}

/// A name that no other run has, which sorts by time.
pub fn fresh_name() -> String {
    let mut ms = Clock::system().now().timestamp_millis().unsigned_abs();
    let mut name = Vec::new();
    while ms > 0 {
        name.push(char::from_digit((ms % 36) as u32, 36).unwrap_or('0'));
        ms /= 36;
    }
    name.iter().rev().collect()
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
    let aim = Aim::take(&args.aim).await?;
    let baseline = args.gate.as_deref().map(Run::load).transpose()?;
    let name = fresh_name();
    let journal = Journal::create(&args.out.with_extension("journal"))?;
    let (workload, began) = (&aim.workload, Instant::now());
    eprintln!(
        "{}: {} requests/s for {} s over {} tills to {}; preparing",
        workload.name,
        workload.rate,
        workload.seconds,
        workload.tills,
        args.aim.url.join(", ")
    );
    let (world, notes) = aim.prepare(&name, &mut journal.pen()).await?;
    let (people, coupons) = (world.people.len(), world.coupons.len());
    eprintln!("prepared {people} members and {coupons} coupons in {:.1} s; running", began.elapsed().as_secs_f64());
    let mut run = drive(&aim, &name, Arc::new(world), &journal, args.part, args.start_at).await?.0;
    let path = std::path::absolute(&journal.path)?;
    journal.close()?;
    run.journals.push(path);
    run.notes.extend(notes);
    if let Some(url) = &args.database_url {
        let mut conn = check::connect(url).await?;
        run.findings = Some(check::of_run(&mut conn, &run).await?);
    }
    report::save(&run, &args.out)?;
    let verdict = report::verdict(&run);
    let Some(baseline) = baseline else { return Ok(verdict) };
    let gated = compare::gate(&baseline, &run, &args.tolerance);
    print!("{}", gated.text);
    Ok(if gated.worse.is_empty() { verdict } else { Verdict::Failed })
}

/// Sends the load, with what goes on beside it; gives the result and the first coupon that is left.
///
/// # Errors
/// When the load cannot be sent.
pub async fn drive(
    aim: &Aim,
    name: &str,
    world: Arc<World>,
    journal: &Journal,
    part: (usize, usize),
    start_at: Option<DateTime<Utc>>,
) -> anyhow::Result<(Run, usize)> {
    let plan = aim.plan(name, part);
    if let Some(at) = start_at {
        let left = (at - Clock::system().now()).to_std().unwrap_or_default();
        tokio::time::sleep(left).await;
    }
    let (beside, began) = beside(aim, &world, journal.pen());
    let coupons = world.coupons.len();
    let outcome = engine::run(&plan, world, journal, move |at| {
        let _ = began.send(at);
    })
    .await?;
    let (coherent, notes) = beside.await??;
    let urls = aim.targets.iter().map(|target| target.url.clone()).collect();
    let (server, generator) = (aim.server.clone(), aim.generator.clone());
    let workload = part_of(&aim.workload, part.1);
    let (seed, started_at) = (aim.args.seed, outcome.started_at);
    let mut run = Run::new(name.to_owned(), workload, seed, started_at, urls, server, generator, outcome.record);
    run.coherence = coherent;
    run.notes = notes;
    if outcome.coupons_next > coupons && coupons > 0 && aim.workload.coupons == super::workload::CouponChoice::EachOnce
    {
        run.notes
            .push(format!("the {coupons} coupons were spent before the end: give prepare.coupons, or leave it out"));
    }
    Ok((run, outcome.coupons_next))
}

/// What one of several generators sends.
fn part_of(workload: &Workload, parts: usize) -> Workload {
    Workload { rate: workload.rate / parts as f64, ..workload.clone() }
}

type Beside = tokio::task::JoinHandle<anyhow::Result<(Option<Coherent>, Vec<String>)>>;

/// Begins what goes on beside the tills, once it is told when they begin: issue jobs, and changes between nodes.
fn beside(aim: &Aim, world: &Arc<World>, mut pen: Pen) -> (Beside, tokio::sync::oneshot::Sender<Instant>) {
    let (began, begins) = tokio::sync::oneshot::channel::<Instant>();
    let (workload, targets) = (aim.workload.clone(), aim.targets.clone());
    let (key, world) = (aim.keys.admin.clone(), Arc::clone(world));
    let handle = tokio::spawn(async move {
        let Ok(at) = begins.await else { return Ok((None, Vec::new())) };
        let until = at + Duration::from_secs_f64(workload.seconds);
        let jobs = async {
            if workload.jobs.every_seconds > 0.0 {
                return issue_jobs(&targets[0], &key, &workload, &world, (at, until), &mut pen).await;
            }
            Ok(Vec::new())
        };
        let changes = async {
            match &workload.coherence {
                Some(settings) => coherence::run(&targets, &key, &world, settings, until).await.map(Some),
                None => Ok(None),
            }
        };
        let (notes, coherent) = tokio::join!(jobs, changes);
        Ok((coherent?, notes?))
    });
    (handle, began)
}

/// Begins a job at each interval, and waits in the end until all are done, so that their coupons can be counted.
async fn issue_jobs(
    target: &Target,
    key: &Key,
    workload: &Workload,
    world: &World,
    (at, until): (Instant, Instant),
    pen: &mut Pen,
) -> anyhow::Result<Vec<String>> {
    let mut office = Office::open(target, key).await?;
    let mut jobs = Vec::new();
    let mut due = at;
    while due < until {
        tokio::time::sleep_until(due.into()).await;
        let rule = &world.rules[jobs.len() % world.rules.len()];
        let path = format!("/v1/coupon-rules/{rule}/issue-jobs?start=true");
        let reply = office.post(&path, &json!({"count": workload.jobs.coupons}), "").await?;
        jobs.push(reply.location.context("a job has a place")?);
        due += Duration::from_secs_f64(workload.jobs.every_seconds);
    }
    let mut made = 0;
    for job in &jobs {
        let ended: Value = office.ended(job).await?;
        made += journal_job(&mut office, job, &ended, pen).await?.len();
    }
    let last = Instant::now().saturating_duration_since(at).as_secs_f64();
    Ok(vec![format!("{} issue jobs made {made} coupons; the last had ended {last:.1} s after the start", jobs.len())])
}
