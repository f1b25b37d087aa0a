//! The highest rate that keeps a stated p99.
//!
//! Rates are tried in short runs: doubled until one fails, then halved between the highest that kept the bound and the
//! lowest that did not. The rate that is found must keep it again and again; if it does not, the search goes on below it. A
//! trial in which the generator was behind says nothing of the server and is made again; when it is behind each time, the
//! answer is that the generator is the limit. So that tills are not, there are more of them at a higher rate; and each trial draws anew, from coupons that none before has used.

use std::{path::PathBuf, sync::Arc};

use anyhow::ensure;
use serde::Serialize;

use super::{
    Verdict, check,
    journal::Journal,
    office::Office,
    report::ms,
    result::Run,
    run::{Aim, AimArgs, drive, fresh_name},
    stop::Signals,
    workload::{CouponChoice, Workload},
    world::World,
};

/// Looks for the highest rate.
#[derive(clap::Args)]
pub struct FindArgs {
    #[command(flatten)]
    pub aim: AimArgs,
    /// The bound: p99 of all requests, in milliseconds.
    #[arg(long, value_name = "MS")]
    pub p99: f64,
    /// Length of a trial in seconds, in place of the workload's.
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub trial: f64,
    /// How near the highest rate that holds and the lowest that does not must come: their ratio less 1.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    pub within: f64,
    /// How often the rate that is found must hold again.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub confirm: usize,
    /// Rate of the first trial, requests a second.
    #[arg(long, default_value_t = 100.0, value_name = "N")]
    pub from: f64,
    /// Where the trials are kept, as JSON.
    #[arg(long, short, default_value = "find.json", value_name = "FILE")]
    pub out: PathBuf,
    /// The database, to check the books afterwards.
    #[arg(long, env = "TESSERA_CHECK_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Option<String>,
}

/// One trial.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// Requests a second that were due.
    pub rate: f64,
    pub tills: usize,
    pub answered_per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub errors: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Kept,
    Exceeded,
    GeneratorBehind,
}

/// What is known, and what is to be tried next.
#[derive(Debug)]
pub struct Search {
    /// Rates that held, lowest first, and how often.
    kept: Vec<(f64, usize)>,
    exceeded: Option<f64>,
    within: f64,
    confirm: usize,
    next: f64,
    /// How often in succession the generator was behind at the rate that is tried.
    behind_now: usize,
    /// Whether the lowest rate that did not hold says nothing of the server.
    behind: bool,
}

/// Rates below this are not looked for.
const RATE_MIN: f64 = 1.0;
/// A trial in which the generator was behind says nothing. After so many of one rate it is the generator's limit.
const BEHIND_MAX: usize = 3;

/// Requests of a trial of which one in a hundred are ten.
const REQUESTS_MIN: f64 = 1_000.0;

impl Search {
    pub fn new(from: f64, within: f64, confirm: usize) -> Self {
        Self { kept: Vec::new(), exceeded: None, within, confirm, next: from, behind_now: 0, behind: false }
    }

    /// The rate to try; none when the search is over.
    pub fn next(&self) -> Option<f64> {
        (self.next >= RATE_MIN && self.found().is_none()).then_some(self.next)
    }

    pub fn tried(&mut self, outcome: Outcome) {
        let rate = self.next;
        if outcome == Outcome::GeneratorBehind {
            self.behind_now += 1;
            if self.behind_now < BEHIND_MAX {
                return;
            }
        }
        self.behind_now = 0;
        if outcome == Outcome::Kept {
            match self.kept.last_mut() {
                Some((last, times)) if *last == rate => *times += 1,
                _ => self.kept.push((rate, 1)),
            }
        } else {
            // One failure is enough: it may not hold by luck. What held below it stays known.
            if self.exceeded.is_none_or(|least| rate <= least) {
                self.exceeded = Some(rate);
                self.behind = outcome == Outcome::GeneratorBehind;
            }
            self.kept.retain(|(kept, _)| *kept < rate);
        }
        let kept = self.kept.last().map(|(kept, _)| *kept);
        self.next = match (kept, self.exceeded) {
            (Some(kept), None) => kept * 2.0,
            (None, Some(exceeded)) => exceeded / 2.0,
            (Some(kept), Some(exceeded)) if !self.is_near(kept, exceeded) => (kept * exceeded).sqrt(),
            // Near enough: now it must hold again.
            (Some(kept), Some(_)) => kept,
            (None, None) => rate,
        };
    }

    fn is_near(&self, kept: f64, exceeded: f64) -> bool {
        exceeded / kept <= 1.0 + self.within
    }

    /// The highest rate that held as often as it must.
    pub fn found(&self) -> Option<f64> {
        let ((kept, times), exceeded) = (self.kept.last()?, self.exceeded?);
        (self.is_near(*kept, exceeded) && *times > self.confirm).then_some(*kept)
    }
}

/// # Errors
/// When a trial cannot be run.
pub async fn run(args: &FindArgs) -> anyhow::Result<Verdict> {
    ensure!(args.p99 > 0.0 && args.within > 0.0 && args.from >= RATE_MIN, "p99, within and from are above 0");
    let aimed = AimArgs { seconds: Some(args.trial), rate: Some(args.from), ..args.aim.clone() };
    let mut aim = Aim::take(&aimed, (0, 1)).await?;
    // A day's curve has its own peak: here every second is the same.
    aim.workload.curve = Vec::new();
    let (tills, seed) = (aim.workload.tills, aim.seed);
    let name = fresh_name((0, 1));
    let journal = Journal::create(&args.out.with_extension("journal"))?;
    let (mut world, notes) = aim.prepare(&name, &mut journal.pen()).await?;
    notes.iter().for_each(|note| println!("Note: {note}"));
    // From here on there is something to keep.
    let signals = Signals::listen()?;
    let stop = signals.stop();
    let mut search = Search::new(args.from, args.within, args.confirm);
    let (mut trials, mut last, mut began) = (Vec::new(), None, None);
    println!(
        "{:>12} {:>7} {:>12} {:>9} {:>9} {:>7}  p99 within {} ms?",
        "requests/s", "tills", "answered/s", "p50 ms", "p99 ms", "errors", args.p99
    );
    while let Some(rate) = search.next().filter(|_| !stop.is_asked()) {
        aim.workload.rate = rate;
        aim.workload.tills = tills.max(aim.workload.tills_wanted());
        aim.workload.check()?;
        aim.seed = seed.wrapping_add(trials.len() as u64);
        provide(&aim, &name, &mut world, trials.len(), &journal).await?;
        // Names of orders and registers differ from trial to trial.
        let trial = format!("{name}-t{}", trials.len());
        let (run, coupons_next) = drive(&aim, &trial, Arc::new(world.clone()), &journal, None, &stop).await?;
        world.coupons_from = coupons_next;
        began = began.or(Some(run.started_at));
        // A trial that was cut short says nothing of its rate; what it was answered is in the journal.
        if run.interrupted.is_some() {
            last = Some(run);
            break;
        }
        let outcome = judge(&run, args.p99);
        search.tried(outcome);
        let all = run.record.latency();
        let (answered_per_second, errors) = (run.answered_per_second(), run.record.failures());
        let (tills, p50_us, p99_us) = (aim.workload.tills, all.at(50.0), all.at(99.0));
        let trial = Trial { rate, tills, answered_per_second, p50_us, p99_us, errors, outcome };
        let word = match outcome {
            Outcome::Kept => "yes",
            Outcome::Exceeded => "no",
            Outcome::GeneratorBehind if run.record.requests() == 0 => "nothing was due",
            Outcome::GeneratorBehind => "the generator was behind",
        };
        let (p50, p99) = (ms(trial.p50_us), ms(trial.p99_us));
        let shown = rate_of(rate);
        println!("{shown:>12} {tills:>7} {answered_per_second:>12.1} {p50:>9} {p99:>9} {errors:>7}  {word}");
        trials.push(trial);
        last = Some(run);
    }
    let path = std::path::absolute(&journal.path)?;
    journal.close()?;
    let is_stopped = stop.is_asked() && search.found().is_none();
    let mut verdict = if is_stopped { Verdict::Interrupted } else { say(&search, args.p99) };
    if is_stopped {
        println!("stopped after {} trials, before the rate was found", trials.len());
    }
    if search.found().is_some_and(|rate| rate * args.trial < REQUESTS_MIN) {
        let enough = REQUESTS_MIN / search.found().unwrap_or(1.0);
        println!("Note: of so few requests p99 is the longest few: give --trial {enough:.0} for a firm answer");
    }
    let kept = serde_json::json!({
        "workload": aim.workload.name, "p99_bound_ms": args.p99, "found_requests_per_second": search.found(),
        "generator_was_behind": search.behind, "interrupted": is_stopped, "trials": trials,
    });
    std::fs::write(&args.out, serde_json::to_vec_pretty(&kept)?)?;
    signals.over();
    println!("Trials: {}", args.out.display());
    if let (Some(url), Some(mut run)) = (&args.database_url, last) {
        (run.run, run.started_at) = (name.clone(), began.unwrap_or(run.started_at));
        run.journals = vec![path];
        if broken_books(url, &run).await? {
            verdict = Verdict::Failed;
        }
    }
    Ok(verdict)
}

/// Looks at the books of all trials, and says what it found.
async fn broken_books(url: &str, run: &Run) -> anyhow::Result<bool> {
    let findings = check::of_run(&mut check::connect(url).await?, run).await?;
    print!("{}", check::render(&findings));
    Ok(findings.iter().any(|finding| finding.broken > 0))
}

/// What a trial needs that the one before has used up: coupons; and where tills meet over the same ones, or take of a stock,
/// rules too.
async fn provide(aim: &Aim, name: &str, world: &mut World, trial: usize, journal: &Journal) -> anyhow::Result<()> {
    let workload = &aim.workload;
    if trial > 0 && wears_rules_out(workload) {
        world.rules = aim.preparer(name).rules().await?;
        world.coupons.clear();
        world.coupons_from = 0;
    }
    let missing = workload.coupons_wanted().saturating_sub(world.coupons_left());
    if missing == 0 {
        return Ok(());
    }
    let mut office = Office::open(&aim.targets[0], &aim.keys.admin).await?;
    aim.preparer(name).coupons(&mut office, world, missing, &mut journal.pen()).await
}

fn wears_rules_out(workload: &Workload) -> bool {
    let rule = &workload.rule;
    let takes = workload.mix.claim + workload.mix.issue > 0.0;
    workload.coupons == CouponChoice::Shared || takes && (rule.stock.is_some() || rule.per_member.is_some())
}

fn say(search: &Search, p99: f64) -> Verdict {
    match search.found() {
        Some(rate) => {
            let rate = rate_of(rate);
            if search.behind {
                println!(
                    "p99 is kept within {p99} ms at {rate} requests/s. Above that the generator was behind, so the server \
                     may carry more: give the generator cores of its own, or more --threads"
                );
            } else {
                println!("Highest rate that keeps p99 within {p99} ms: {rate} requests/s");
            }
            Verdict::Passed
        }
        None if search.behind => {
            println!("The generator was behind at every rate: give it cores of its own, or more --threads");
            Verdict::Failed
        }
        None => {
            println!("No rate of at least {RATE_MIN} requests/s keeps p99 within {p99} ms");
            Verdict::Failed
        }
    }
}

/// As it is shown: two that differ by what is looked for look different.
fn rate_of(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

/// Whether a trial kept the bound: in its latency, its errors, and in that it answered what was due.
fn judge(run: &Run, p99_ms: f64) -> Outcome {
    let kept = run.record.latency().at(99.0) as f64 <= p99_ms * 1e3 && run.failures().is_empty();
    match (kept, run.invalid().is_empty()) {
        (true, true) => Outcome::Kept,
        (_, false) => Outcome::GeneratorBehind,
        (false, true) => Outcome::Exceeded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that keeps the bound up to a rate.
    fn search(limit: f64, from: f64) -> (Option<f64>, usize) {
        confirmed(limit, from, 2)
    }

    fn confirmed(limit: f64, from: f64, confirm: usize) -> (Option<f64>, usize) {
        let mut search = Search::new(from, 0.05, confirm);
        let mut trials = 0;
        while let Some(rate) = search.next() {
            trials += 1;
            search.tried(if rate <= limit { Outcome::Kept } else { Outcome::Exceeded });
            assert!(trials < 60, "it ends");
        }
        (search.found(), trials)
    }

    #[test]
    fn the_rate_that_is_found_is_within_a_twentieth_of_the_highest() {
        for limit in [3.0, 99.0, 100.0, 777.0, 1_600.0, 25_000.0] {
            let (found, trials) = search(limit, 100.0);
            let found = found.unwrap();
            assert!(found <= limit && found * 1.05 >= limit, "{found} of {limit} in {trials}");
        }
    }

    #[test]
    fn a_rate_that_need_not_hold_again_is_looked_for_all_the_same() {
        let found = confirmed(777.0, 100.0, 0).0.unwrap();
        assert!(found <= 777.0 && found * 1.05 >= 777.0, "{found}");
    }

    #[test]
    fn the_generator_is_the_limit_only_where_the_lowest_rate_that_failed_failed_by_it() {
        for (server, generator, is_limit) in [(500.0, 5_000.0, false), (5_000.0, 500.0, true)] {
            let mut search = Search::new(100.0, 0.05, 1);
            while let Some(rate) = search.next() {
                search.tried(match rate {
                    _ if rate > generator => Outcome::GeneratorBehind,
                    _ if rate > server => Outcome::Exceeded,
                    _ => Outcome::Kept,
                });
            }
            assert_eq!(search.behind, is_limit, "a server of {server}/s and a generator of {generator}/s");
        }
    }

    #[test]
    fn a_generator_that_is_behind_now_and_then_lowers_nothing() {
        let mut search = Search::new(100.0, 0.05, 2);
        let mut tried = 0;
        while let Some(rate) = search.next() {
            tried += 1;
            search.tried(match tried % 3 {
                0 | 1 => Outcome::GeneratorBehind,
                _ if rate > 777.0 => Outcome::Exceeded,
                _ => Outcome::Kept,
            });
            assert!(tried < 100, "it ends");
        }
        let found = search.found().unwrap();
        assert!(found <= 777.0 && found * 1.05 >= 777.0 && !search.behind, "{found}");
    }

    #[test]
    fn a_rate_that_fails_when_it_is_to_hold_again_leaves_what_held_below_it() {
        let mut search = Search::new(80.0, 0.05, 2);
        let mut rates: Vec<f64> = Vec::new();
        while let Some(rate) = search.next() {
            let lucky = rate < 97.0 || rate < 100.0 && !rates.contains(&rate);
            rates.push(rate);
            search.tried(if lucky { Outcome::Kept } else { Outcome::Exceeded });
        }
        let found = search.found().unwrap();
        assert!((95.0..97.0).contains(&found) && rates.len() < 10, "{found}: {rates:?}");
        assert!(rates.iter().all(|rate| *rate >= 80.0), "nothing that is known is asked again: {rates:?}");
    }

    #[test]
    fn a_server_that_carries_nothing_is_found_out() {
        assert_eq!(search(0.0, 100.0).0, None);
    }

    #[test]
    fn a_rate_that_holds_once_and_not_again_is_lowered() {
        let mut search = Search::new(100.0, 0.05, 2);
        let mut seen = std::collections::BTreeMap::new();
        while let Some(rate) = search.next() {
            let times = seen.entry(rate as u64).or_insert(0);
            *times += 1;
            let lucky = rate <= 700.0 && *times == 1;
            search.tried(if rate <= 500.0 || lucky { Outcome::Kept } else { Outcome::Exceeded });
        }
        let found = search.found().unwrap();
        assert!(found <= 500.0 && found > 400.0, "{found}");
    }
}
