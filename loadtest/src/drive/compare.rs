//! Two runs side by side, as ratios; and a gate: is the second as good as the first, within what is tolerated?

use std::{fmt::Write, path::PathBuf};

use anyhow::ensure;

use super::{
    Verdict,
    baseline::Gate,
    op::Op,
    record::{Hist, OpStats},
    report::{
        self, ms,
        plot::{Line, Plot, Scale, escape},
    },
    result::Run,
};

/// Requests beyond a percentile below which it is chance.
const BEYOND_MIN: f64 = 10.0;
/// Requests of a kind below which the share of those that were granted is chance, and by how much it may fall.
const GRANTED_COUNT_MIN: u64 = 1_000;
const GRANTED_TOLERANCE: f64 = 0.05;
/// Latencies below this are not told apart from noise by the gate, in microseconds.
const NOISE_US: u64 = 200;

/// How much worse is still as good.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Tolerance {
    /// The gate lets p50 and p99 of a request grow by so many times the baseline's.
    #[arg(long, default_value_t = 1.25, value_name = "RATIO")]
    pub tolerance: f64,
    /// The gate lets throughput fall to the baseline's divided by this.
    #[arg(long, default_value_t = 1.05, value_name = "RATIO")]
    pub throughput_tolerance: f64,
    /// The gate lets the share of errors grow by so much.
    #[arg(long, default_value_t = 0.001, value_name = "SHARE")]
    pub errors_tolerance: f64,
}

/// Compares results.
#[derive(clap::Args)]
pub struct CompareArgs {
    /// What is compared with; with --gate a baseline (.toml) will do as well.
    pub before: PathBuf,
    pub after: PathBuf,
    /// Exit code 1 when the second is worse than is tolerated.
    #[arg(long)]
    pub gate: bool,
    #[command(flatten)]
    pub tolerance: Tolerance,
    /// Also as a page.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// # Errors
/// When a result cannot be read, or the page cannot be written.
pub fn run(args: &CompareArgs) -> anyhow::Result<Verdict> {
    let (before, after) = match (Gate::load(&args.before)?, Run::load(&args.after)?) {
        (Gate::Run(before), after) => (*before, after),
        (gate @ Gate::Baseline(_), after) => {
            ensure!(args.gate && args.html.is_none(), "a baseline is for --gate: it has no figures to show");
            let gated = gate.judge(&after, &args.tolerance);
            print!("{}", gated.text);
            return Ok(gated.verdict());
        }
    };
    print!("{}", text(&before, &after));
    if let Some(path) = &args.html {
        report::write(path, &html(&before, &after))?;
        println!("Page: {}", path.display());
    }
    if !args.gate {
        return Ok(Verdict::Passed);
    }
    let gated = gate(&before, &after, &args.tolerance);
    print!("{}", gated.text);
    Ok(gated.verdict())
}

/// A figure of two runs.
#[derive(Debug, Clone)]
struct Pair {
    what: String,
    before: String,
    after: String,
    /// After by before; none where one of them says nothing.
    ratio: Option<f64>,
    /// Worse the larger it is.
    larger_is_worse: bool,
}

fn by(after: f64, before: f64) -> Option<f64> {
    (before > 0.0).then(|| after / before)
}

/// A percentile of fewer requests than it has room for is the largest of them.
fn is_enough(was: &Hist, is: &Hist, percentile: f64) -> bool {
    was.count().min(is.count()) as f64 * (100.0 - percentile) / 100.0 >= BEYOND_MIN
}

fn pairs(before: &Run, after: &Run) -> Vec<Pair> {
    let (was, is) = (before.answered_per_second(), after.answered_per_second());
    let mut pairs = vec![
        Pair {
            what: "answered as they should be, requests/s".to_owned(),
            before: format!("{was:.1}"),
            after: format!("{is:.1}"),
            ratio: by(is, was),
            larger_is_worse: false,
        },
        Pair {
            what: "errors, % of requests".to_owned(),
            before: format!("{:.3}", before.error_share() * 100.0),
            after: format!("{:.3}", after.error_share() * 100.0),
            ratio: by(after.error_share(), before.error_share()),
            larger_is_worse: true,
        },
    ];
    let mut latencies = |name: &str, was: &Hist, is: &Hist| {
        for (percentile, at) in report::PERCENTILES {
            pairs.push(Pair {
                what: format!("{name} {percentile}, ms"),
                before: ms(was.at(at)),
                after: ms(is.at(at)),
                ratio: by(is.at(at) as f64, was.at(at) as f64).filter(|_| is_enough(was, is, at)),
                larger_is_worse: true,
            });
        }
    };
    latencies("all", &before.record.latency(), &after.record.latency());
    for (op, was) in &before.record.ops {
        let is = after.record.ops.get(op).filter(|is| is.latency.count().min(was.latency.count()) > 0);
        if let Some(is) = is {
            latencies(op.name(), &was.latency, &is.latency);
        }
    }
    pairs
}

/// In what two runs were not asked the same.
fn differences(before: &Run, after: &Run) -> Vec<String> {
    let mut cautions = Vec::new();
    if before.workload.name != after.workload.name {
        cautions.push(format!("these are different workloads: {} and {}", before.workload.name, after.workload.name));
    }
    for (which, run) in [("first", before), ("second", after)] {
        cautions.extend(report::interrupted(run).map(|what| format!("the {which} was {what}")));
    }
    if before.server.profile != after.server.profile || before.generator.profile != after.generator.profile {
        cautions.push("these are of builds of different profiles".to_owned());
    }
    for (what, was, is) in [
        ("rates", before.workload.rate, after.workload.rate),
        ("lengths", before.workload.seconds, after.workload.seconds),
        ("numbers of tills", before.workload.tills as f64, after.workload.tills as f64),
    ] {
        if (was - is).abs() > f64::EPSILON {
            cautions.push(format!("these are different {what}: {was} and {is}"));
        }
    }
    cautions
}

/// What makes a comparison worth little.
fn cautions(before: &Run, after: &Run) -> Vec<String> {
    let mut cautions = differences(before, after);
    for (which, run) in [("first", before), ("second", after)] {
        cautions.extend(run.invalid().into_iter().map(|why| format!("the {which} is invalid: {why}")));
    }
    cautions
}

/// The table on a terminal.
pub fn text(before: &Run, after: &Run) -> String {
    let mut text = format!("{:<44} {:>12} {:>12} {:>8}\n", "", before.run, after.run, "ratio");
    for Pair { what, before, after, ratio, .. } in pairs(before, after) {
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, "{what:<44} {before:>12} {after:>12} {ratio:>8}");
    }
    cautions(before, after).iter().for_each(|caution| {
        let _ = writeln!(text, "Caution: {caution}");
    });
    text
}

/// The page: table, and the two curves of each request.
pub fn html(before: &Run, after: &Run) -> String {
    let title = format!("{}: {} and {}", after.workload.name, before.run, after.run);
    let mut body = format!("<h1>{}</h1>\n<p>Ratios are the second by the first.</p>\n", escape(&title));
    for caution in cautions(before, after) {
        let _ = writeln!(body, "<p class=bad>{}</p>", escape(&caution));
    }
    let _ = write!(
        body,
        "<div class=wide><table><tr><th></th><th>{}</th><th>{}</th><th>ratio</th></tr>",
        escape(&before.run),
        escape(&after.run)
    );
    for Pair { what, before, after, ratio, larger_is_worse } in pairs(before, after) {
        let class = match ratio {
            Some(ratio) if (ratio > 1.1) == larger_is_worse && (ratio - 1.0).abs() > 0.1 => "bad",
            Some(ratio) if (ratio - 1.0).abs() > 0.1 => "good",
            _ => "",
        };
        let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let _ = write!(
            body,
            "<tr><td>{}</td><td>{before}</td><td>{after}</td><td class=\"{class}\">{ratio}</td></tr>",
            escape(&what)
        );
    }
    body.push_str("</table></div>\n<h2>Percentiles</h2>\n");
    let curve = |run: &Run, stats: &OpStats, dashed: bool| Line {
        name: run.run.clone(),
        colour: usize::from(!dashed),
        dashed,
        points: stats.latency.curve().into_iter().map(|(at, us)| (at, us as f64 / 1e3)).collect(),
    };
    for (op, was) in &before.record.ops {
        let Some(is) = after.record.ops.get(op) else { continue };
        let plot = Plot {
            title: op.name(),
            x: "percentile of requests",
            y: "milliseconds",
            x_scale: Scale::Nines,
            y_scale: Scale::Log,
            lines: vec![curve(before, was, true), curve(after, is, false)],
        };
        body.push_str(&plot.render());
    }
    report::frame(&title, &body)
}

/// What a gate found.
#[derive(Debug, Clone)]
pub struct Gated {
    pub text: String,
    /// A sentence for each thing that is worse than is tolerated.
    pub worse: Vec<String>,
}

impl Gated {
    pub fn verdict(&self) -> Verdict {
        if self.worse.is_empty() { Verdict::Passed } else { Verdict::Failed }
    }
}

/// Holds a run against a baseline: throughput, errors, what was granted, p50 and p99 of each request, and everything that
/// fails a run. A baseline that is worth nothing stops it too.
pub fn gate(baseline: &Run, run: &Run, tolerance: &Tolerance) -> Gated {
    let mut worse = Vec::new();
    worse.extend(run.invalid());
    worse.extend(run.failures());
    let unlike = baseline.invalid().into_iter().chain(differences(baseline, run));
    worse.extend(unlike.map(|why| format!("the baseline will not do, make another: {why}")));
    let (was, is) = (baseline.answered_per_second(), run.answered_per_second());
    if is * tolerance.throughput_tolerance < was {
        worse.push(format!("{is:.1} requests/s answered as they should be, where the baseline had {was:.1}"));
    }
    let (was, is) = (baseline.error_share(), run.error_share());
    if is > was + tolerance.errors_tolerance {
        worse.push(format!("{:.3}% errors, where the baseline had {:.3}%", is * 100.0, was * 100.0));
    }
    let mut few = Vec::new();
    for (op, was) in baseline.record.ops.iter().filter(|(_, was)| was.latency.count() > 0) {
        match run.record.ops.get(op).filter(|is| is.latency.count() > 0) {
            Some(is) => {
                worse.extend(slower(*op, was, is, tolerance.tolerance, &mut few));
                worse.extend(refused(*op, was, is));
            }
            None => worse.push(format!("{} was not sent at all", op.name())),
        }
    }
    let mut text = String::new();
    match worse.len() {
        0 => text.push_str(&format!("Gate: as good as {} within {:.2} times\n", baseline.run, tolerance.tolerance)),
        _ => worse.iter().for_each(|why| {
            let _ = writeln!(text, "Gate: WORSE: {why}");
        }),
    }
    if !few.is_empty() {
        let _ = writeln!(text, "Gate: not held, of too few requests: {}", few.join(", "));
    }
    Gated { text, worse }
}

fn slower(op: Op, was: &OpStats, is: &OpStats, tolerance: f64, few: &mut Vec<String>) -> Vec<String> {
    let mut worse = Vec::new();
    for (name, at) in [("p50", 50.0), ("p99", 99.0)] {
        let (before, after) = (was.latency.at(at), is.latency.at(at));
        if !is_enough(&was.latency, &is.latency, at) {
            few.push(format!("{} {name}", op.name()));
        } else if after > before + NOISE_US && after as f64 > before as f64 * tolerance {
            worse.push(format!(
                "{} {name} is {} ms, {:.2} times the baseline's {} ms",
                op.name(),
                ms(after),
                after as f64 / before.max(1) as f64,
                ms(before)
            ));
        }
    }
    worse
}

/// What is refused where it was granted is answered fast, and no error.
fn refused(op: Op, was: &OpStats, is: &OpStats) -> Option<String> {
    let granted = |stats: &OpStats| stats.ok as f64 / stats.requests().max(1) as f64;
    let (before, after) = (granted(was), granted(is));
    let enough = was.requests().min(is.requests()) >= GRANTED_COUNT_MIN;
    (enough && after < before - GRANTED_TOLERANCE).then(|| {
        format!("{} was granted {:.1}% of the time, the baseline's {:.1}%", op.name(), after * 100.0, before * 100.0)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drive::{
        http::Timing,
        record::{End, Record, Times},
        result::{Build, Generator, Interrupted},
        workload::Workload,
    };

    fn run(took_ms: u64, errors: usize) -> Run {
        let workload = Workload::load("lookup-only").unwrap();
        let mut record = Record::new(workload.seconds);
        for n in 0..1_000 {
            let due = Duration::from_millis(n as u64 * 30);
            let end = if n < errors { End::Failed("internal") } else { End::Ok };
            let done = due + Duration::from_millis(took_ms);
            record.request(Op::Lookup, Times { due, sent: due, done }, end, Timing::default());
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
        Run::new(format!("r{took_ms}"), workload, 1, at, vec!["http://x".into()], build, generator, record)
    }

    const TOLERANCE: Tolerance = Tolerance { tolerance: 1.25, throughput_tolerance: 1.05, errors_tolerance: 0.001 };

    #[test]
    fn a_run_passes_the_gate_of_itself_and_of_a_little_less() {
        assert!(gate(&run(10, 0), &run(10, 0), &TOLERANCE).worse.is_empty());
        assert!(gate(&run(10, 0), &run(12, 0), &TOLERANCE).worse.is_empty());
    }

    #[test]
    fn a_slower_run_one_with_errors_and_one_of_another_workload_are_stopped() {
        let worse = gate(&run(10, 0), &run(13, 0), &TOLERANCE).worse;
        assert!(worse.iter().any(|why| why.contains("lookup p99 is 13.0 ms, 1.30 times")), "{worse:?}");
        let worse = gate(&run(10, 0), &run(10, 5), &TOLERANCE).worse;
        assert!(worse.iter().any(|why| why.contains("0.500% errors")), "{worse:?}");
        let mut other = run(10, 0);
        other.workload.rate *= 2.0;
        assert!(!gate(&run(10, 0), &other, &TOLERANCE).worse.is_empty());
    }

    #[test]
    fn a_run_that_was_stopped_before_its_end_is_no_baseline_and_passes_no_gate() {
        let mut stopped = run(10, 0);
        stopped.interrupted = Some(Interrupted { after_seconds: 20.0 });
        stopped.record.last_answer_us = 20_000_000;
        for (baseline, run) in [(&run(10, 0), &stopped), (&stopped, &run(10, 0)), (&stopped, &stopped)] {
            let worse = gate(baseline, run, &TOLERANCE).worse;
            assert!(worse.iter().any(|why| why.contains("stopped after 20.0 of 30 s")), "{worse:?}");
        }
        // Its rate is that of the time in which it was sent.
        assert!((stopped.answered_per_second() - 50.0).abs() < 0.1);
        assert_eq!(report::verdict(&stopped), Verdict::Interrupted);
        let shown = [report::text(&stopped), report::html(&stopped)];
        assert!(shown.iter().all(|shown| shown.contains("stopped after 20.0 of 30 s")));
        let mut merged = run(11, 0);
        merged.merge(&stopped).unwrap();
        assert_eq!(report::verdict(&merged), Verdict::Interrupted);
        stopped.mishaps.push("a job".to_owned());
        assert_eq!(report::verdict(&stopped), Verdict::Failed);
    }

    #[test]
    fn a_baseline_of_a_generator_that_was_behind_stops_the_gate() {
        let mut late = run(30, 0);
        (0..100).for_each(|_| late.record.lateness.record_us(50_000));
        let worse = gate(&late, &run(10, 0), &TOLERANCE).worse;
        assert!(worse.iter().any(|why| why.contains("the baseline will not do")), "{worse:?}");
        let mut others = run(10, 0);
        others.workload.tills += 1;
        assert!(!gate(&others, &run(10, 0), &TOLERANCE).worse.is_empty());
    }

    #[test]
    fn what_was_granted_and_is_refused_is_worse_however_fast() {
        let mut refusing = run(5, 0);
        let stats = refusing.record.ops.get_mut(&Op::Lookup).unwrap();
        stats.ok -= 100;
        stats.refused.insert("stock_exhausted".to_owned(), 100);
        let worse = gate(&run(10, 0), &refusing, &TOLERANCE).worse;
        assert!(worse.iter().any(|why| why.contains("lookup was granted 90.0%")), "{worse:?}");
        assert!(gate(&refusing, &run(5, 0), &TOLERANCE).worse.is_empty());
    }

    #[test]
    fn the_largest_of_a_few_hundred_requests_is_no_p99() {
        let few = |took_ms| {
            let mut few = run(took_ms, 0);
            let (mut record, all) = (Record::new(30.0), Duration::from_millis(took_ms));
            (0..300).for_each(|n| {
                let due = Duration::from_millis(n * 100);
                let done = due + if n < 4 { all * 5 } else { all };
                record.request(Op::Lookup, Times { due, sent: due, done }, End::Ok, Timing::default());
            });
            few.record = record;
            few
        };
        let mut steady = few(10);
        steady.record.ops.get_mut(&Op::Lookup).unwrap().latency = run(10, 0).record.ops[&Op::Lookup].latency.clone();
        let gated = gate(&steady, &few(10), &TOLERANCE);
        assert!(
            gated.worse.is_empty() && gated.text.contains("not held, of too few requests: lookup p99"),
            "{}",
            gated.text
        );
    }

    #[test]
    fn a_part_that_was_behind_spoils_what_it_is_merged_into_and_counts_once() {
        let (mut merged, mut late) = (run(10, 0), run(11, 0));
        (0..15).for_each(|_| late.record.lateness.record_us(50_000));
        assert!(merged.invalid().is_empty() && !late.invalid().is_empty());
        merged.merge(&late).unwrap();
        assert!(merged.record.lateness.at(99.0) < 1_000, "among all requests it does not show");
        assert!(merged.invalid()[0].contains("r11: the generator was behind"), "{:?}", merged.invalid());
        assert!(merged.merge(&late).unwrap_err().to_string().contains("r11 is in both"));
        merged.merge(&run(12, 0)).unwrap();
        assert_eq!(merged.invalid().len(), 1);
    }

    #[test]
    fn a_comparison_shows_ratios_and_says_what_differs() {
        let mut slow = run(20, 0);
        slow.workload.tills = 3;
        let shown = text(&run(10, 0), &slow);
        assert!(shown.contains("2.00") && shown.contains("different numbers of tills"), "{shown}");
        let page = html(&run(10, 0), &slow);
        assert!(page.contains("class=\"bad\">2.00") && !page.contains("NaN"));
    }

    #[test]
    fn a_generator_that_was_behind_makes_a_run_invalid() {
        let mut late = run(10, 0);
        for _ in 0..100 {
            late.record.lateness.record_us(50_000);
        }
        assert!(late.invalid()[0].contains("the generator was behind"));
        assert!(!gate(&run(10, 0), &late, &TOLERANCE).worse.is_empty());
    }

    #[test]
    fn merged_runs_have_the_sum_of_their_requests_and_one_report() {
        let mut merged = run(10, 0);
        merged.merge(&run(20, 3)).unwrap();
        assert_eq!((merged.record.requests(), merged.record.failures()), (2_000, 3));
        assert_eq!(merged.generator.generators, 2);
        assert!((merged.record.latency().at(50.0) as f64 / 10_000.0 - 1.0).abs() < 0.01);
        let mut other = run(10, 0);
        other.workload.name = "soak".into();
        assert!(merged.merge(&other).is_err());
        assert!(report::html(&merged).contains("r10+r20"));
    }
}
