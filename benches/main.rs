//! The benches: criterion, one file for each hot path, each subject beside its reference. `benches/README.md` says how.
//!
//! One program, so that what they share is linked once and the databases are made once. Words on the command line choose
//! files by name: `cargo bench -- lane_read http`.

mod cached_read;
mod codec;
mod coherence;
mod growth;
mod http_get;
mod http_redeem;
mod issue;
mod issue_job;
mod key_lookup;
mod lane_read;
mod lane_redeem;
mod lists;
mod member_import;
mod router;
mod support;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use criterion::Criterion;
use support::{
    Bench,
    built::Built,
    cluster::Cluster,
    report::{Report, is_quick},
    sizes,
    stage::{Stage, settings},
};
use tessera::app::App;
use tokio::runtime::Runtime;

/// A year of issue days: as many leaves as a hash-partitioned table has, give or take.
const DAYS: i64 = 365;
/// Coupons in flat tables beside a built dataset, at most.
const FLAT_ROWS: i64 = 20_000_000;

/// Which files are wanted.
struct Choice(Vec<String>);

impl Choice {
    fn of_arguments() -> Self {
        Self(std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect())
    }

    fn has(&self, file: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|wanted| file.contains(wanted.as_str()))
    }

    fn has_any(&self, files: &[&str]) -> bool {
        files.iter().any(|file| self.has(file))
    }
}

/// Says how long a bench took, since all of them together are to end within ten minutes.
fn timed(choice: &Choice, file: &'static str, run: impl FnOnce()) {
    if choice.has(file) {
        let began = Instant::now();
        run();
        println!("[{file}: {:.0} s]", began.elapsed().as_secs_f64());
    }
}

fn criterion() -> Criterion {
    let criterion = match is_quick() {
        true => Criterion::default().without_plots().sample_size(10).nresamples(1_001),
        false => Criterion::default().without_plots(),
    };
    // Of words for files criterion would take one, as a filter.
    let is_one = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).count() < 2;
    let criterion = if is_one { criterion.configure_from_args() } else { criterion };
    let times = |ms| std::time::Duration::from_millis(if is_quick() { ms / 10 } else { ms });
    criterion.warm_up_time(times(200)).measurement_time(times(500))
}

fn rows() -> i64 {
    let default = if is_quick() { 20_000 } else { 500_000 };
    std::env::var("TESSERA_BENCH_ROWS").map_or(default, |rows| rows.parse().expect("a number of rows"))
}

fn main() {
    let choice = Choice::of_arguments();
    let runtime: &'static Runtime = Box::leak(Box::new(Runtime::new().expect("a runtime")));
    let mut bench = Bench { criterion: criterion(), report: Report::new(), runtime };
    timed(&choice, "codec", || codec::run(&mut bench));
    timed(&choice, "router", || router::run(&mut bench));
    timed(&choice, "cached_read", || cached_read::run(&mut bench));
    let with_rows = [
        "lane_read",
        "key_lookup",
        "lists",
        "growth",
        "http_get",
        "lane_redeem",
        "http_redeem",
        "coherence",
        "issue",
        "issue_job",
        "member_import",
    ];
    let what = if choice.has_any(&with_rows) { on_rows(&choice, &mut bench) } else { String::new() };
    bench.criterion.final_summary();
    bench.report.finish(&what);
    // Servers serve until the end, which is here.
    std::process::exit(0);
}

/// A stage, with one of a tenth of its rows beside if somebody asks for it.
fn on_rows(choice: &Choice, bench: &mut Bench) -> String {
    let (runtime, began) = (bench.runtime, Instant::now());
    let place = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let Some(manifest) = place("TESSERA_BENCH_DATASET") else {
        let (cluster, rows) = (Cluster::start(), rows());
        let stage = Stage::new(runtime, cluster, "tessera_bench", rows, DAYS);
        println!("[{rows} coupons made: {:.0} s]", began.elapsed().as_secs_f64());
        let small = || Stage::new(runtime, cluster, "tessera_bench_small", rows / 10, DAYS);
        run(choice, bench, stage, &small);
        cluster.end();
        let size = if is_quick() { "quick, which only shows that the benches run" } else { "small" };
        return format!("{rows} coupons ({size}).");
    };
    let cluster = match place("TESSERA_BENCH_DATABASE_URL").expect("the database of the dataset") {
        url if url.starts_with("postgres") => Cluster::at(url),
        data_dir => Cluster::of_data(data_dir.as_ref()),
    };
    let flat_rows = place("TESSERA_BENCH_FLAT_ROWS").map_or(FLAT_ROWS, |rows| rows.parse().expect("a number of rows"));
    let stage = Stage::of_built(runtime, cluster, Built::load(manifest.as_ref()), flat_rows, DAYS);
    // The small one gets a server of its own, which somebody else's database is not burdened with.
    let beside = OnceLock::new();
    let small = || {
        let cluster = *beside.get_or_init(Cluster::start);
        Stage::new(runtime, cluster, "tessera_bench_small", (stage.rows / 10).clamp(10_000, 1_000_000), DAYS)
    };
    run(choice, bench, stage, &small);
    beside.get().into_iter().for_each(|cluster| cluster.end());
    cluster.end();
    let (rows, members) = (stage.rows, stage.members());
    format!("A built dataset of {rows} coupons and {members} members; {} coupons in flat tables.", stage.flat_rows)
}

/// Reads come first, since writes leave dead rows behind.
fn run(choice: &Choice, bench: &mut Bench, stage: &'static Stage, small: &dyn Fn() -> &'static Stage) {
    bench.report.note(sizes::told(stage));
    if let Some(rate) = stage.built.as_ref().and_then(|built| built.rate) {
        let (subject, reference) = (format!("{:.0} rows/s", rate.built), format!("raw COPY: {:.0} rows/s", rate.raw));
        bench.report.add(
            "dataset.json",
            "dataset build",
            "",
            subject,
            reference,
            rate.built / rate.raw,
            "dataset build",
        );
    }
    let app: Arc<App> = stage.app(settings());
    timed(choice, "lane_read", || lane_read::run(bench, stage, &app));
    timed(choice, "growth", || growth::run(bench, stage, &app, small()));
    timed(choice, "key_lookup", || key_lookup::run(bench, stage));
    timed(choice, "lists", || lists::run(bench, stage, &app));
    timed(choice, "http_get", || http_get::run(bench, stage));
    timed(choice, "lane_redeem", || lane_redeem::run(bench, stage, &app));
    timed(choice, "http_redeem", || http_redeem::run(bench, stage, &app));
    if stage.built.is_some() {
        stage.remember();
    } else {
        timed(choice, "coherence", || coherence::run(bench, stage, &app));
        lane_redeem::verify(stage);
        bench.report.note(sizes::told(stage));
        timed(choice, "issue", || issue::run(bench, stage, &app));
        timed(choice, "issue_job", || issue_job::run(bench, stage, &app));
        // It empties the tables of members.
        timed(choice, "member_import", || member_import::run(bench, stage, &app));
    }
    bench.runtime.block_on(app.stop());
}
