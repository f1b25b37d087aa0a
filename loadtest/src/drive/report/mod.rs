//! What a run has shown, for people: text on the terminal, and a page with plots that needs nothing besides itself.

mod page;
pub use page::frame;
pub mod plot;

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{
    Verdict, check,
    record::Hist,
    result::{Interrupted, Run},
};

/// Shows a result.
#[derive(clap::Args)]
pub struct ReportArgs {
    pub result: PathBuf,
    /// Where the page goes; beside the result if absent.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// # Errors
/// When the result cannot be read or the page cannot be written.
pub fn run(args: &ReportArgs) -> anyhow::Result<Verdict> {
    let run = Run::load(&args.result)?;
    let html = args.html.clone().unwrap_or_else(|| args.result.with_extension("html"));
    write(&html, &page::render(&run))?;
    print!("{}", text(&run));
    println!("Page: {}", html.display());
    Ok(verdict(&run))
}

/// Keeps a result with its page, and says it.
///
/// # Errors
/// When the files cannot be written.
pub fn save(run: &Run, path: &Path) -> anyhow::Result<()> {
    run.save(path)?;
    let html = path.with_extension("html");
    write(&html, &page::render(run))?;
    print!("{}", text(run));
    println!("Result: {}  Page: {}", path.display(), html.display());
    Ok(())
}

/// The page of a result.
pub fn html(run: &Run) -> String {
    page::render(run)
}

pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// Failed when the server did, or when the run says nothing of it.
pub fn verdict(run: &Run) -> Verdict {
    match run.interrupted {
        _ if !run.invalid().is_empty() || !run.failures().is_empty() => Verdict::Failed,
        Some(_) => Verdict::Interrupted,
        None => Verdict::Passed,
    }
}

/// That it was stopped before its end; nothing where it was not.
pub fn interrupted(run: &Run) -> Option<String> {
    let Interrupted { after_seconds } = run.interrupted?;
    Some(format!("stopped after {after_seconds:.1} of {} s: the figures are of that time", run.workload.seconds))
}

/// Milliseconds, to three figures.
pub fn ms(us: u64) -> String {
    let ms = us as f64 / 1e3;
    if ms < 10.0 {
        format!("{ms:.2}")
    } else if ms < 100.0 {
        format!("{ms:.1}")
    } else {
        format!("{ms:.0}")
    }
}

/// The percentiles that are shown, with their names.
pub const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

fn row(name: &str, hist: &Hist) -> String {
    let mut text = format!("{name:<10} {:>9}", hist.count());
    for (_, percentile) in PERCENTILES {
        text.push_str(&format!(" {:>8}", ms(hist.at(percentile))));
    }
    text.push_str(&format!(" {:>8}", ms(hist.max())));
    text
}

/// The run on a terminal.
pub fn text(run: &Run) -> String {
    let mut text = String::new();
    let (record, workload) = (&run.record, &run.workload);
    text.push_str(&format!(
        "\n{} ({}), {} requests/s due for {} s, {} tills, {} generator(s), server {} {}\n",
        workload.name,
        run.run,
        workload.rate,
        workload.seconds,
        workload.tills,
        run.generator.generators,
        run.server.version,
        run.server.profile
    ));
    text.push_str(&format!(
        "{} requests, {:.1}/s answered as they should be, {} errors ({:.3}%); waiting for a till at once: at most {}\n\n",
        record.requests(),
        run.answered_per_second(),
        record.failures(),
        run.error_share() * 100.0,
        record.waiting_max
    ));
    text.push_str("Latency from the instant a request was due, in ms\n");
    text.push_str("            requests      p50      p90      p99    p99.9      max       ok  refused   errors\n");
    for (op, stats) in &record.ops {
        let (refused, failed) = (stats.refusals(), stats.failures());
        text.push_str(&format!("{} {:>8} {refused:>8} {failed:>8}\n", row(op.name(), &stats.latency), stats.ok));
    }
    text.push_str(&format!("{}\n", row("all", &record.latency())));
    for (op, stats) in &record.ops {
        for (code, count) in stats.refused.iter().chain(&stats.errors) {
            let what = if stats.refused.contains_key(code) { "refused" } else { "ERROR" };
            text.push_str(&format!("{what:>8} {:<10} {code}: {count}\n", op.name()));
        }
        if stats.skipped > 0 {
            let name = op.name();
            text.push_str(&format!(
                "not sent {name:<10} since an earlier step of the sale failed: {}\n",
                stats.skipped
            ));
        }
    }
    text.push_str(&format!("\nThe generator's own lateness, in ms\n{}\n", row("late", &record.lateness)));
    if let Some(seen) = &run.coherence {
        text.push_str(&format!(
            "\nBetween nodes: {} changes, after {} of them the other node was asked before it knew; old for at most {} ms \
             (bound {} ms), {} beyond the bound\n",
            seen.changes,
            seen.seen_old,
            ms(seen.staleness.max()),
            ms(seen.bound_us),
            seen.violations
        ));
    }
    match &run.findings {
        Some(findings) => text.push_str(&format!("\nInvariants\n{}", check::render(findings))),
        None => text.push_str("\nInvariants: not looked at (loadtest check --database-url URL RESULT)\n"),
    }
    run.notes.iter().for_each(|note| text.push_str(&format!("Note: {note}\n")));
    interrupted(run).iter().for_each(|what| text.push_str(&format!("INTERRUPTED: {what}\n")));
    run.invalid().iter().for_each(|why| text.push_str(&format!("INVALID: {why}\n")));
    run.failures().iter().for_each(|why| text.push_str(&format!("FAILED: {why}\n")));
    text
}
