//! What a run is held against on any machine: invariants, errors, and what is relative within the run itself.
//!
//! A result is a baseline for the machine that it was made on. This is one that can be committed: it names no time unless
//! somebody writes one into it, and no rate. [`Baseline::of`] makes it of a run that passed, with room for what chance and
//! another machine make different.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::{
    Verdict,
    compare::{self, Gated, Tolerance},
    op::Op,
    record::OpStats,
    report::{self, ms},
    result::Run,
};

/// Requests of a kind below which its median is chance.
const MEDIAN_COUNT_MIN: u64 = 200;
/// A share is as good within so many standard deviations.
const DEVIATIONS: f64 = 5.0;
/// How much longer a request may take beside another of the same run than it did.
const BESIDE_ROOM: f64 = 4.0;

/// What a run must be like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Its name; rate, length and number of tills are the run's own.
    pub workload: String,
    /// Requests that may end in an error, of all.
    pub errors_max: f64,
    /// Of the requests that were due, those answered as they should be at least.
    pub answered_min: f64,
    /// Invariants that must have had something to look at. None may be broken, whether it stands here or not.
    pub invariants: Vec<String>,
    /// By name.
    pub requests: BTreeMap<String, Request>,
}

/// What one kind of request must be like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    /// Of all requests, least and most.
    pub share: [f64; 2],
    /// Granted, of those of this kind.
    pub granted_min: f64,
    /// Codes that it may be refused with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Answered out of a cache, of those of this kind.
    #[serde(skip_serializing_if = "is_zero")]
    pub cached_min: f64,
    /// The server's own time for it beside that for another, both medians of this run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// Only for a machine that stays the same: p99 from the instant it was due. None is ever made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms_max: Option<f64>,
}

/// At most so many times another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Beside {
    pub request: String,
    pub times_max: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_zero(share: &f64) -> bool {
    *share == 0.0
}

/// Makes a baseline of a result.
#[derive(clap::Args)]
pub struct BaselineArgs {
    /// Of a run that passed, its books looked at.
    pub result: PathBuf,
    /// Where it goes, as TOML.
    #[arg(long, short, value_name = "FILE")]
    pub out: PathBuf,
}

/// # Errors
/// When the run is none to be as good as, or a file cannot be read or written.
pub fn run(args: &BaselineArgs) -> anyhow::Result<Verdict> {
    let result = Run::load(&args.result)?;
    let baseline = Baseline::of(&result)?;
    let head = format!(
        "# What a run of {} must be like, on any machine. Made of the run {}.\n",
        result.workload.name, result.run
    );
    report::write(&args.out, &format!("{head}{}", toml::to_string(&baseline)?))?;
    println!("Baseline: {}", args.out.display());
    Ok(Verdict::Passed)
}

/// What a run is held against: another of the same machine, or what holds on any.
pub enum Gate {
    Run(Box<Run>),
    Baseline(Baseline),
}

impl Gate {
    /// Reads a result, or a baseline if the file's name ends in `.toml`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        if path.extension().is_some_and(|extension| extension == "toml") {
            return Ok(Self::Baseline(Baseline::load(path)?));
        }
        Ok(Self::Run(Box::new(Run::load(path)?)))
    }

    pub fn judge(&self, run: &Run, tolerance: &Tolerance) -> Gated {
        match self {
            Self::Run(baseline) => compare::gate(baseline, run, tolerance),
            Self::Baseline(baseline) => baseline.judge(run),
        }
    }

    /// Whether it asks what the books say.
    pub fn asks_for_books(&self) -> bool {
        matches!(self, Self::Baseline(baseline) if !baseline.invariants.is_empty())
    }
}

fn share_of(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

/// By how much a share of so many may be off by chance.
fn chance(share: f64, all: u64) -> f64 {
    DEVIATIONS * (share * (1.0 - share) / all.max(1) as f64).max(0.0).sqrt()
}

impl Baseline {
    /// # Errors
    /// When the file is no baseline, or names what there is not.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let baseline: Self =
            toml::from_str(&text).with_context(|| format!("{} is not a baseline of a load test", path.display()))?;
        let beside = baseline.requests.values().filter_map(|request| request.beside.as_ref());
        for name in baseline.requests.keys().chain(beside.map(|beside| &beside.request)) {
            ensure!(Op::parse(name).is_some(), "{}: there is no request {name}", path.display());
        }
        Ok(baseline)
    }

    /// What the next run must be like to be as good as this one.
    ///
    /// # Errors
    /// When it is none to be as good as.
    pub fn of(run: &Run) -> anyhow::Result<Self> {
        let why: Vec<String> =
            run.invalid().into_iter().chain(run.failures()).chain(report::interrupted(run)).collect();
        ensure!(why.is_empty(), "{} is no run to be as good as: {}", run.run, why.join("; "));
        let findings = run.findings.as_ref().context("look at its books first, with `loadtest check`")?;
        // Whether answers get lost is chance: there may be none the next time.
        let looked = findings.iter().filter(|finding| finding.looked_at > 0 && finding.name != "unknown-whole");
        let all = run.record.requests();
        let requests = run.record.ops.iter().filter(|(_, stats)| stats.requests() > 0);
        let requests = requests.map(|(op, stats)| (op.name().to_owned(), Request::of(run, *op, stats, all)));
        Ok(Self {
            workload: run.workload.name.clone(),
            errors_max: run.workload.errors_max,
            answered_min: rounded((1.0 - run.workload.errors_max) * 0.98),
            invariants: looked.map(|finding| finding.name.clone()).collect(),
            requests: requests.collect(),
        })
    }

    /// Holds a run against it.
    pub fn judge(&self, run: &Run) -> Gated {
        let mut worse = [run.invalid(), run.failures(), report::interrupted(run).into_iter().collect()].concat();
        if run.workload.name != self.workload {
            worse.push(format!("the baseline is of {}, and this is {}", self.workload, run.workload.name));
        }
        worse.extend(self.books(run));
        let (all, errors) = (run.record.requests(), run.error_share());
        if errors > self.errors_max {
            worse.push(format!("{:.3}% errors, and {:.3}% are allowed", errors * 100.0, self.errors_max * 100.0));
        }
        let skipped: u64 = run.record.ops.values().map(|stats| stats.skipped).sum();
        let answered = share_of(all - run.record.failures(), all + skipped);
        if answered < self.answered_min {
            let (answered, least) = (answered * 100.0, self.answered_min * 100.0);
            worse.push(format!("{answered:.2}% of what was due was answered as it should be, and {least:.2}% must be"));
        }
        let mut few = Vec::new();
        for (name, wanted) in &self.requests {
            let stats = Op::parse(name).and_then(|op| run.record.ops.get(&op)).filter(|stats| stats.requests() > 0);
            match stats {
                Some(stats) => worse.extend(wanted.judge(name, stats, run, &mut few)),
                None if wanted.share[0] > 0.0 => worse.push(format!("{name} was not sent at all")),
                None => {}
            }
        }
        let mut text = String::new();
        if worse.is_empty() {
            let _ = writeln!(text, "Gate: as a run of {} must be", self.workload);
        }
        worse.iter().for_each(|why| {
            let _ = writeln!(text, "Gate: WORSE: {why}");
        });
        if !few.is_empty() {
            let _ = writeln!(text, "Gate: not held, of too few requests: {}", few.join(", "));
        }
        Gated { text, worse }
    }

    /// What was not looked at; what is broken is among the run's failures.
    fn books(&self, run: &Run) -> Vec<String> {
        let Some(findings) = &run.findings else {
            return if self.invariants.is_empty() {
                Vec::new()
            } else {
                vec!["the books were not looked at".to_owned()]
            };
        };
        let looked = |name: &str| findings.iter().any(|finding| finding.name == name && finding.looked_at > 0);
        let unseen = self.invariants.iter().filter(|name| !looked(name));
        unseen.map(|name| format!("invariant {name}: there was nothing to look at")).collect()
    }
}

impl Request {
    fn of(run: &Run, op: Op, stats: &OpStats, all: u64) -> Self {
        let (requests, share) = (stats.requests(), share_of(stats.requests(), all));
        let room = (share * 0.25).max(chance(share, all));
        let (granted, cached) = (share_of(stats.ok, requests), share_of(stats.cached, requests));
        Self {
            share: [rounded((share - room).max(0.0)), rounded((share + room).min(1.0))],
            granted_min: rounded((granted - 0.02 - chance(granted, requests)).max(0.0)),
            refused: stats.refused.keys().cloned().collect(),
            // What is in memory depends on what was asked before.
            cached_min: rounded((cached - 0.2).max(0.0)),
            beside: Beside::of(run, op, stats),
            p99_ms_max: None,
        }
    }

    fn judge(&self, name: &str, stats: &OpStats, run: &Run, few: &mut Vec<String>) -> Vec<String> {
        let mut worse = Vec::new();
        let (requests, all) = (stats.requests(), run.record.requests());
        let ([least, most], share) = (self.share, share_of(requests, all));
        if share < least - chance(least, all) || share > most + chance(most, all) {
            let [share, least, most] = [share, least, most].map(|share| share * 100.0);
            worse.push(format!("{name} is {share:.1}% of the requests, and must be {least:.1} to {most:.1}%"));
        }
        let granted = share_of(stats.ok, requests);
        if granted < self.granted_min - chance(self.granted_min, requests) {
            let (granted, least) = (granted * 100.0, self.granted_min * 100.0);
            worse.push(format!("{name} was granted {granted:.1}% of the time, and must be {least:.1}%"));
        }
        let others = stats.refused.keys().filter(|code| !self.refused.contains(code));
        worse.extend(others.map(|code| format!("{name} was refused with {code}")));
        let cached = share_of(stats.cached, requests);
        if cached < self.cached_min - chance(self.cached_min, requests) {
            let (cached, least) = (cached * 100.0, self.cached_min * 100.0);
            worse.push(format!("{name} came out of a cache {cached:.1}% of the time, and must be {least:.1}%"));
        }
        if let Some(beside) = &self.beside {
            match beside.times(stats, run) {
                Some(times) if times > beside.times_max => worse.push(format!(
                    "{name} takes the server {times:.1} times as long as {}, and may take {:.1} times",
                    beside.request, beside.times_max
                )),
                Some(_) => {}
                None => few.push(format!("{name} beside {}", beside.request)),
            }
        }
        if let Some(most) = self.p99_ms_max
            && stats.latency.at(99.0) as f64 > most * 1e3
        {
            worse.push(format!("{name} p99 is {} ms, and may be {most} ms", ms(stats.latency.at(99.0))));
        }
        worse
    }
}

impl Beside {
    /// Beside the most frequent request that waits for the same: writes for the disk, reads for memory.
    fn of(run: &Run, op: Op, stats: &OpStats) -> Option<Self> {
        let others = run.record.ops.iter().filter(|(other, _)| **other != op && other.writes() == op.writes());
        let (other, _) = others.max_by_key(|(_, stats)| stats.requests())?;
        let mut beside = Self { request: other.name().to_owned(), times_max: 0.0 };
        beside.times_max = (beside.times(stats, run)? * BESIDE_ROOM).max(2.0).ceil();
        Some(beside)
    }

    /// None of too few requests.
    fn times(&self, stats: &OpStats, run: &Run) -> Option<f64> {
        let (mine, theirs) = (&stats.server_total, &run.record.ops.get(&Op::parse(&self.request)?)?.server_total);
        let enough = mine.count().min(theirs.count()) >= MEDIAN_COUNT_MIN;
        enough.then(|| mine.at(50.0) as f64 / theirs.at(50.0).max(1) as f64)
    }
}

/// To four digits after the point: the file is for people.
fn rounded(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drive::{
        check::Finding,
        http::Timing,
        record::{End, Record, Times},
        result::{Build, Generator},
        workload::Workload,
    };

    /// A run whose requests take the server so many microseconds.
    fn run(lookup_us: u64, member_us: u64) -> Run {
        let workload = Workload::load("lookup-only").unwrap();
        let mut record = Record::new(workload.seconds);
        for n in 0..1_000 {
            let op = if n % 10 < 7 { Op::Lookup } else { Op::Member };
            let us = if op == Op::Lookup { lookup_us } else { member_us };
            let (due, took) = (Duration::from_millis(n * 30), Duration::from_micros(us * 2));
            let timing = Timing { total_us: Some(us), cached: n % 2 == 0, ..Timing::default() };
            record.request(op, Times { due, sent: due, done: due + took }, End::Ok, timing);
            record.lateness.record_us(50);
        }
        let build = Build { version: "1".into(), profile: "release".into() };
        let generator = Generator {
            version: "1".into(),
            profile: "release".into(),
            generators: 1,
            threads: 1,
            cores: 2,
            lateness_p99_max_us: 5_000,
        };
        let at = "2026-11-22T00:00:00Z".parse().unwrap();
        let mut run = Run::new("r".into(), workload, 1, at, vec!["http://x".into()], build, generator, record);
        let (name, says) = ("acknowledged".to_owned(), "all is there".to_owned());
        run.findings = Some(vec![Finding { name, says, looked_at: 5, broken: 0, examples: Vec::new() }]);
        run
    }

    fn worse(run: &Run) -> Vec<String> {
        Baseline::of(&self::run(100, 50)).unwrap().judge(run).worse
    }

    #[test]
    fn a_run_passes_the_baseline_that_is_made_of_it_also_after_a_file_and_on_a_slower_machine() {
        let dir = tempfile::tempdir().unwrap();
        let (result, path) = (dir.path().join("a.json"), dir.path().join("baseline.toml"));
        run(100, 50).save(&result).unwrap();
        super::run(&BaselineArgs { result, out: path.clone() }).unwrap();
        assert_eq!(Baseline::load(&path).unwrap(), Baseline::of(&run(100, 50)).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("_ms"), "no time stands in it: {text}");
        // A tenth of the speed, twice the rate, other tills.
        let mut slower = run(1_000, 500);
        (slower.workload.rate, slower.workload.tills) = (2_000.0, 7);
        assert_eq!(worse(&run(100, 50)), Vec::<String>::new());
        assert_eq!(worse(&slower), Vec::<String>::new());
    }

    #[test]
    fn a_spoiled_run_does_not_pass() {
        let spoiled = |spoil: &dyn Fn(&mut Run)| {
            let mut run = run(100, 50);
            spoil(&mut run);
            worse(&run).join("; ")
        };
        let lookup =
            |run: &mut Run, change: &dyn Fn(&mut OpStats)| change(run.record.ops.get_mut(&Op::Lookup).unwrap());
        let refuse = |stats: &mut OpStats, code: &str, count| {
            stats.ok -= count;
            stats.refused.insert(code.to_owned(), count);
        };
        for (says, why) in [
            ("invariant acknowledged: 1 broken", spoiled(&|run| run.findings.as_mut().unwrap()[0].broken = 1)),
            (
                "acknowledged: there was nothing to look at",
                spoiled(&|run| run.findings.as_mut().unwrap()[0].looked_at = 0),
            ),
            ("the books were not looked at", spoiled(&|run| run.findings = None)),
            ("the generator was behind", spoiled(&|run| (0..100).for_each(|_| run.record.lateness.record_us(50_000)))),
            (
                "0.299% errors, and 0.100% are allowed",
                spoiled(&|run| lookup(run, &|stats| stats.errors = [("internal".to_owned(), 3)].into())),
            ),
            ("of what was due was answered", spoiled(&|run| lookup(run, &|stats| stats.skipped = 200))),
            ("refused with rate_limited", spoiled(&|run| lookup(run, &|stats| refuse(stats, "rate_limited", 1)))),
            ("lookup was granted 71", spoiled(&|run| lookup(run, &|stats| refuse(stats, "any", 200)))),
            ("lookup came out of a cache 0.0%", spoiled(&|run| lookup(run, &|stats| stats.cached = 0))),
            ("lookup was not sent at all", spoiled(&|run| drop(run.record.ops.remove(&Op::Lookup)))),
            ("member is 100.0% of the requests", spoiled(&|run| drop(run.record.ops.remove(&Op::Lookup)))),
            ("member takes the server 5.0 times as long as lookup", worse(&self::run(100, 500)).join("; ")),
            ("and this is another", spoiled(&|run| run.workload.name = "another".into())),
        ] {
            assert!(why.contains(says), "{says}: {why}");
        }
    }

    #[test]
    fn what_is_spoiled_makes_no_baseline() {
        let mut broken = run(100, 50);
        broken.findings.as_mut().unwrap()[0].broken = 1;
        assert!(Baseline::of(&broken).is_err());
        broken.findings = None;
        assert!(Baseline::of(&broken).unwrap_err().to_string().contains("look at its books first"));
    }

    #[test]
    fn the_committed_baselines_are_of_built_in_workloads_and_name_no_time() {
        let mut count = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/baselines")).unwrap() {
            let path = entry.unwrap().path();
            let baseline = Baseline::load(&path).unwrap();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(baseline.workload.as_str()));
            Workload::load(&baseline.workload).unwrap();
            assert!(baseline.requests.values().all(|request| request.p99_ms_max.is_none()), "{}", path.display());
            count += 1;
        }
        assert!(count > 0);
    }
}
