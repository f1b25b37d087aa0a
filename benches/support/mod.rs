//! What the benches against PostgreSQL share: closed loops of callers, and two sides measured in turns.

pub mod report;
#[allow(dead_code, reason = "each bench is a program of its own and uses a part")]
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

use report::Report;

/// One client of a closed loop: it asks again when it was answered.
pub trait Caller: Send + 'static {
    /// One request with its answer; panics when the answer is not the expected one.
    fn call(&mut self) -> impl Future<Output = ()> + Send;
}

/// How one round went.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub took: Duration,
    /// Median latency of its calls, where the side can tell; else the mean.
    pub p50: Duration,
}

/// One of the things that are compared.
pub trait Contender {
    fn name(&self) -> &str;
    fn round(&mut self, runtime: &Runtime, calls: usize) -> Round;
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
        runtime.block_on(async {
            let began = Instant::now();
            let tasks: Vec<_> = callers
                .into_iter()
                .map(|mut caller| {
                    let left = Arc::clone(&left);
                    tokio::spawn(async move {
                        let mut waits = Vec::with_capacity(calls);
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
            let took = began.elapsed();
            waits.sort_unstable();
            Round { took, p50: waits[waits.len() / 2] }
        })
    }
}

/// The fastest of some candidates, each after a round to warm up: a reference is measured at its own best.
pub fn best<T: Contender>(runtime: &Runtime, calls: usize, candidates: Vec<T>) -> T {
    candidates
        .into_iter()
        .map(|mut candidate| {
            candidate.round(runtime, calls);
            (candidate.round(runtime, calls).took, candidate)
        })
        .min_by_key(|(took, _)| *took)
        .expect("there is a candidate")
        .1
}

/// What a line of the report compares.
#[derive(Debug, Clone, Copy)]
pub enum Measure {
    /// Answers per second: subject by reference.
    Rate,
    /// Median latency: subject by reference.
    P50,
}

/// A reference with what is asked of the subject beside it.
pub struct Reference<'a> {
    pub side: &'a mut dyn Contender,
    pub measure: Measure,
    pub goal: &'a str,
}

/// Measures a subject by criterion, and in each of criterion's iterations the references in turn with it.
pub fn compare(
    criterion: &mut Criterion,
    report: &mut Report,
    runtime: &Runtime,
    (path, tasks, calls): (&str, usize, usize),
    subject: &mut dyn Contender,
    references: &mut [Reference<'_>],
) {
    let mut turns: Vec<Vec<Round>> = Vec::new();
    // Known beforehand, so that criterion takes two iterations a sample.
    subject.round(runtime, calls);
    let expected = subject.round(runtime, calls).took;
    let mut group = criterion.benchmark_group(path);
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(expected * 15)
        .throughput(Throughput::Elements(calls as u64));
    group.bench_function(tasks.to_string(), |bencher| {
        bencher.iter_custom(|iterations| {
            let mut spent = Duration::ZERO;
            for _ in 0..iterations {
                let mut turn = vec![subject.round(runtime, calls)];
                spent += turn[0].took;
                turn.extend(references.iter_mut().map(|reference| reference.side.round(runtime, calls)));
                turns.push(turn);
            }
            spent
        });
    });
    group.finish();
    // The first turn is criterion's warm-up.
    let Some(turns) = turns.get(1..).filter(|turns| !turns.is_empty()) else { return };
    for (at, reference) in references.iter().enumerate() {
        let seconds = |side: usize| {
            median(turns.iter().map(|turn| match reference.measure {
                Measure::Rate => turn[side].took.as_secs_f64(),
                Measure::P50 => turn[side].p50.as_secs_f64(),
            }))
        };
        let (ours, theirs) = (seconds(0), seconds(at + 1));
        let show = |seconds: f64| match reference.measure {
            Measure::Rate => format!("{:.0}/s", calls as f64 / seconds),
            Measure::P50 => format!("p50 {:.0} µs", seconds * 1e6),
        };
        let ratio = match reference.measure {
            Measure::Rate => theirs / ours,
            Measure::P50 => ours / theirs,
        };
        let name = format!("{}: {}", reference.side.name(), show(theirs));
        report.add(path, &tasks.to_string(), show(ours), name, ratio, reference.goal);
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
