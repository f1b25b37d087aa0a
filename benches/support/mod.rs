//! What the benches share: closed loops of callers, and sides measured in turns.

pub mod built;
pub mod cluster;
mod fill;
mod goals;
pub mod http;
pub mod machine;
pub mod pgbench;
pub mod report;
pub mod sizes;
pub mod stage;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use criterion::{Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;

use report::{Report, is_quick};

/// Turns in a run, after one to warm up.
const TURNS: usize = 10;
const TURNS_QUICK: usize = 2;
/// A contender that is slow to begin takes part in each so manieth turn.
const SLOW_EVERY: usize = 3;

/// What every bench is given.
pub struct Bench {
    pub criterion: Criterion,
    pub report: Report,
    pub runtime: &'static Runtime,
}

/// One client of a closed loop: it asks again when it was answered.
pub trait Caller: Send + 'static {
    /// One request with its answer; panics when the answer is not the expected one.
    fn call(&mut self) -> impl Future<Output = ()> + Send;
}

/// How one round went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    /// For as many calls as were asked for.
    pub took: Duration,
    pub p50: Duration,
    pub p99: Duration,
    /// Processor seconds of the service in this process, without its callers, where the side can tell.
    pub cpu: f64,
}

impl Round {
    /// One call, of many things.
    pub fn whole(took: Duration) -> Self {
        Self { took, p50: took, p99: took, cpu: 0.0 }
    }

    pub fn of(took: Duration, mut waits: Vec<Duration>) -> Self {
        waits.sort_unstable();
        let at = |part: usize| waits.get(waits.len() * part / 100).copied().unwrap_or_default();
        Self { took, p50: at(50), p99: at(99), cpu: 0.0 }
    }
}

/// One of the things that are compared.
pub trait Contender {
    fn name(&self) -> &str;
    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round;

    /// It takes part in fewer turns.
    fn is_slow(&self) -> bool {
        false
    }
}

impl<C: Contender + ?Sized> Contender for Box<C> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        (**self).round(runtime, calls)
    }

    fn is_slow(&self) -> bool {
        (**self).is_slow()
    }
}

/// Callers of one kind, one task each.
pub struct Side<C> {
    name: String,
    callers: Vec<C>,
}

impl<C: Caller> Side<C> {
    pub fn new(name: impl Into<String>, callers: Vec<C>) -> Self {
        Self { name: name.into(), callers }
    }
}

impl<C: Caller> Contender for Side<C> {
    fn name(&self) -> &str {
        &self.name
    }

    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round {
        let left = Arc::new(AtomicI64::new(calls as i64));
        let callers = std::mem::take(&mut self.callers);
        let share = calls / callers.len().max(1) * 2;
        runtime.block_on(async {
            let began = Instant::now();
            let tasks: Vec<_> = callers
                .into_iter()
                .map(|mut caller| {
                    let left = Arc::clone(&left);
                    tokio::spawn(async move {
                        let mut waits = Vec::with_capacity(share);
                        while left.fetch_sub(1, Ordering::Relaxed) > 0 {
                            let asked = Instant::now();
                            caller.call().await;
                            waits.push(asked.elapsed());
                        }
                        (caller, waits)
                    })
                })
                .collect();
            let mut waits = Vec::with_capacity(calls);
            for task in tasks {
                let (caller, waited) = task.await.expect("a caller failed");
                self.callers.push(caller);
                waits.extend(waited);
            }
            Round::of(began.elapsed(), waits)
        })
    }
}

/// The fastest of some candidates, each after a round to warm up: a reference is measured at its own best.
pub fn best<T: Contender>(runtime: &Runtime, calls: usize, mut candidates: Vec<T>) -> T {
    if candidates.len() == 1 {
        return candidates.remove(0);
    }
    candidates
        .into_iter()
        .map(|mut candidate| {
            if !candidate.is_slow() {
                candidate.round(runtime, calls);
            }
            (candidate.round(runtime, calls).took, candidate)
        })
        .min_by_key(|(took, _)| *took)
        .expect("there is a candidate")
        .1
}

/// Numbers of clients that a reference may choose among, when its subject has so many tasks.
pub fn clients(tasks: usize) -> Vec<usize> {
    if tasks == 1 || is_quick() {
        return vec![tasks.min(16)];
    }
    [4, 16, 64].into_iter().filter(|&clients| clients <= tasks).collect()
}

/// What a line of the report compares.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Answers per second: subject by reference.
    Rate,
    /// Median latency: subject by reference.
    P50,
    P99,
    /// Answers for each second of processor time of the service: subject by reference.
    PerCpu,
}

impl Measure {
    /// Seconds, of which fewer are better.
    fn seconds(self, round: &Round) -> f64 {
        match self {
            Self::Rate => round.took.as_secs_f64(),
            Self::P50 => round.p50.as_secs_f64(),
            Self::P99 => round.p99.as_secs_f64(),
            Self::PerCpu => round.cpu,
        }
    }

    fn show(self, seconds: f64, calls: usize) -> String {
        match self {
            Self::Rate => format!("{:.0}/s", calls as f64 / seconds),
            Self::P50 => format!("p50 {:.0} µs", seconds * 1e6),
            Self::P99 => format!("p99 {:.0} µs", seconds * 1e6),
            Self::PerCpu => format!("{:.1} µs of CPU", seconds / calls as f64 * 1e6),
        }
    }

    fn ratio(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::Rate | Self::PerCpu => theirs / ours,
            Self::P50 | Self::P99 => ours / theirs,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy)]
pub struct Path {
    /// The bench, by which it is asked for on the command line.
    pub file: &'static str,
    pub path: &'static str,
    pub tasks: usize,
    /// In a round.
    pub calls: usize,
}

/// A reference, and what is compared with it: each measure with its row of the table of goals, if it has one.
pub struct Reference<'a> {
    pub side: &'a mut dyn Contender,
    pub measures: &'a [(Measure, &'static str)],
}

/// Measures a subject by criterion, and in each of criterion's iterations the references in turn with it.
pub fn compare(bench: &mut Bench, path: Path, subject: &mut dyn Contender, references: &mut [Reference<'_>]) {
    let (runtime, calls) = (bench.runtime, path.calls);
    let mut turns: Vec<Vec<Option<Round>>> = Vec::new();
    let mut turn = |no: usize, turns: &mut Vec<Vec<Option<Round>>>| {
        let ours = subject.round(runtime, calls);
        let mut turn = vec![Some(ours)];
        for reference in references.iter_mut() {
            let takes_part = !reference.side.is_slow() || no.is_multiple_of(SLOW_EVERY);
            turn.push(takes_part.then(|| reference.side.round(runtime, calls)));
        }
        turns.push(turn);
        ours.took
    };
    // To warm up, and so that criterion can be told how long one takes.
    let mut warm = Vec::new();
    let expected = turn(1, &mut warm);
    if is_quick() {
        (0..TURNS_QUICK).for_each(|no| _ = turn(no, &mut turns));
    } else {
        let mut group = bench.criterion.benchmark_group(format!("{}/{}", path.file, path.path));
        group
            .sampling_mode(SamplingMode::Flat)
            .sample_size(TURNS)
            .warm_up_time(Duration::from_millis(1))
            .measurement_time(expected * TURNS as u32 / 2)
            .throughput(Throughput::Elements(calls as u64));
        group.bench_function(path.tasks.to_string(), |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| turn(turns.len(), &mut turns)).sum());
        });
        group.finish();
    }
    for (at, reference) in references.iter().enumerate() {
        let pairs: Vec<(Round, Round)> = turns.iter().filter_map(|turn| Some((turn[0]?, turn[at + 1]?))).collect();
        if pairs.is_empty() {
            continue;
        }
        for &(measure, row) in reference.measures {
            let ours = median(pairs.iter().map(|(ours, _)| measure.seconds(ours)));
            let theirs = median(pairs.iter().map(|(_, theirs)| measure.seconds(theirs)));
            let beside = format!("{}: {}", reference.side.name(), measure.show(theirs, calls));
            let ratio = measure.ratio(ours, theirs);
            bench.report.add(path.file, path.path, path.tasks, measure.show(ours, calls), beside, ratio, row);
        }
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    // Of an even number neither of the two in the middle is the median.
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}
