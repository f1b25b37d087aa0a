//! The page of one run.

use std::fmt::Write;

use super::{
    PERCENTILES, ms,
    plot::{Line, Plot, Scale, bars, escape},
};
use crate::drive::{
    op::Op,
    record::{Hist, OpStats, Row},
    result::Run,
};

/// Frame of a page.
pub fn frame(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width, initial-scale=1\"><title>{}</title>\
         <style>\n{}</style></head>\n<body>\n{body}</body></html>\n",
        escape(title),
        include_str!("page.css")
    )
}

pub fn render(run: &Run) -> String {
    let workload = &run.workload;
    let mut body = format!("<h1>{}</h1>\n<p>{}</p>\n", escape(&workload.name), escape(&workload.about));
    let _ = writeln!(
        body,
        "<p class=soft>{} &middot; run {} &middot; {} requests/s due for {} s, {} &middot; {} tills &middot; seed {} &middot; \
         server {} {} at {} &middot; {} generator(s) of {} thread(s), {} cores</p>",
        run.started_at.format("%Y-%m-%d %H:%M:%S UTC"),
        escape(&run.run),
        workload.rate,
        workload.seconds,
        format!("{:?}", workload.arrivals).to_lowercase(),
        workload.tills,
        run.seed,
        escape(&run.server.version),
        escape(&run.server.profile),
        escape(&run.urls.join(", ")),
        run.generator.generators,
        run.generator.threads,
        run.generator.cores
    );
    verdict(run, &mut body);
    figures(run, &mut body);
    over_time(run, &mut body);
    percentiles(run, &mut body);
    server(run, &mut body);
    codes(run, &mut body);
    generator(run, &mut body);
    coherence(run, &mut body);
    findings(run, &mut body);
    frame(&format!("{} {}", workload.name, run.run), &body)
}

fn verdict(run: &Run, body: &mut String) {
    let interrupted: Vec<String> = super::interrupted(run).into_iter().collect();
    let said = [
        ("Invalid: ", run.invalid()),
        ("", run.failures()),
        ("Interrupted: ", interrupted),
        ("Note: ", run.notes.clone()),
    ];
    let why: Vec<String> = said
        .into_iter()
        .flat_map(|(kind, lines)| lines.into_iter().map(move |line| format!("<li>{kind}{}</li>", escape(&line))))
        .collect();
    let (class, word) = match (run.invalid().is_empty(), run.failures().is_empty()) {
        (true, true) if run.interrupted.is_some() => ("", "Interrupted, and nothing wrong until then"),
        (true, true) => ("good", "Passed"),
        (false, _) => ("bad", "Invalid: the figures say little of the server"),
        (true, false) => ("bad", "Failed"),
    };
    let looked = if run.findings.is_some() { "" } else { " (the books were not looked at)" };
    let _ = writeln!(body, "<div class=\"verdict {class}\">{word}{looked}<ul>{}</ul></div>", why.concat());
}

fn cells(hist: &Hist) -> String {
    let mut text: String = PERCENTILES.iter().map(|(_, at)| format!("<td>{}</td>", ms(hist.at(*at)))).collect();
    let _ = write!(text, "<td>{}</td>", ms(hist.max()));
    text
}

fn figures(run: &Run, body: &mut String) {
    let record = &run.record;
    let _ = writeln!(
        body,
        "<h2>Latency</h2><p>{} requests, {:.1} a second answered as they should be, {} errors ({:.3}%). Milliseconds from \
         the instant at which a request was due to the end of its answer; in brackets from the instant at which it was \
         sent.</p>",
        record.requests(),
        run.answered_per_second(),
        record.failures(),
        run.error_share() * 100.0
    );
    let heads: String = PERCENTILES.iter().map(|(name, _)| format!("<th>{name}</th>")).collect();
    let _ = write!(
        body,
        "<div class=wide><table><tr><th></th><th>requests</th><th>ok</th><th>refused</th><th>errors</th>{heads}<th>max</th><th>(p50)</th><th>(p99)</th></tr>"
    );
    for (op, stats) in &record.ops {
        let errors = if stats.failures() > 0 { " class=bad" } else { "" };
        let _ = write!(
            body,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td{errors}>{}</td>{}<td>({})</td><td>({})</td></tr>",
            op.name(),
            stats.requests(),
            stats.ok,
            stats.refusals(),
            stats.failures(),
            cells(&stats.latency),
            ms(stats.service.at(50.0)),
            ms(stats.service.at(99.0))
        );
    }
    let all = record.latency();
    let (refused, ok): (u64, u64) =
        (record.ops.values().map(OpStats::refusals).sum(), record.ops.values().map(|stats| stats.ok).sum());
    let _ = writeln!(
        body,
        "<tr><td>all</td><td>{}</td><td>{ok}</td><td>{refused}</td><td>{}</td>{}<td></td><td></td></tr></table></div>",
        record.requests(),
        record.failures(),
        cells(&all)
    );
}

fn over_time(run: &Run, body: &mut String) {
    let (rows, interval) = (&run.record.rows, run.record.interval_secs);
    let at = |no: usize| (no as f64 + 0.5) * interval;
    let line = |name: &str, colour: usize, dashed: bool, value: &dyn Fn(&Row) -> f64| Line {
        name: name.to_owned(),
        colour,
        dashed,
        points: rows.iter().enumerate().map(|(no, row)| (at(no), value(row))).collect(),
    };
    let rate = |count: u64| count as f64 / interval;
    let mut lines =
        vec![line("due", 6, true, &|row| rate(row.due)), line("answered", 0, false, &|row| rate(row.answered))];
    if rows.iter().any(|row| row.refused > 0) {
        lines.push(line("refused", 4, false, &|row| rate(row.refused)));
    }
    if rows.iter().any(|row| row.failed > 0) {
        lines.push(line("errors", 1, false, &|row| rate(row.failed)));
    }
    let plot = Plot {
        title: "Throughput",
        x: "seconds since the start",
        y: "requests/s",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        lines,
    };
    body.push_str("<h2>Over time</h2>\n");
    body.push_str(&plot.render());
    let latency = |name: &str, colour: usize, value: &dyn Fn(&Hist) -> u64| Line {
        name: name.to_owned(),
        colour,
        dashed: false,
        points: rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.latency.count() > 0)
            .map(|(no, row)| (at(no), value(&row.latency) as f64 / 1e3))
            .collect(),
    };
    let lines = vec![
        latency("p50", 0, &|hist| hist.at(50.0)),
        latency("p99", 4, &|hist| hist.at(99.0)),
        latency("max", 1, &Hist::max),
    ];
    let plot = Plot {
        title: "Latency of what was due then",
        x: "seconds since the start",
        y: "milliseconds",
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
        lines,
    };
    body.push_str(&plot.render());
}

fn percentiles(run: &Run, body: &mut String) {
    let line = |(no, (op, stats)): (usize, (&Op, &OpStats))| Line {
        name: op.name().to_owned(),
        colour: no,
        dashed: no >= super::plot::COLOURS,
        points: stats.latency.curve().into_iter().map(|(at, us)| (at, us as f64 / 1e3)).collect(),
    };
    let plot = Plot {
        title: "Latency by percentile",
        x: "percentile of requests",
        y: "milliseconds",
        x_scale: Scale::Nines,
        y_scale: Scale::Log,
        lines: run.record.ops.iter().enumerate().map(line).collect(),
    };
    body.push_str("<h2>Percentiles</h2>\n");
    body.push_str(&plot.render());
}

fn server(run: &Run, body: &mut String) {
    let parts =
        ["waits in the lane", "database", "else in the server", "on the way", "waits for a till, or the step before"];
    let rows: Vec<(String, Vec<f64>)> = run
        .record
        .ops
        .iter()
        .filter(|(_, stats)| stats.server_total.count() > 0)
        .map(|(op, stats)| {
            // Shares of all answers: not each has waited or asked the database.
            let mean = |hist: &Hist| hist.mean() * hist.count() as f64 / stats.requests().max(1) as f64 / 1e3;
            let (total, db, queue) = (mean(&stats.server_total), mean(&stats.server_db), mean(&stats.server_queue));
            let (service, latency) = (mean(&stats.service), mean(&stats.latency));
            let values = vec![queue, db, total - db - queue, service - total, latency - service];
            (op.name().to_owned(), values.into_iter().map(|value| value.max(0.0)).collect())
        })
        .collect();
    body.push_str("<h2>Where the time goes</h2>\n");
    body.push_str(&bars(
        "Mean of each request, by what the server says of itself (Server-Timing)",
        "ms",
        &parts,
        &rows,
    ));
    let _ = write!(
        body,
        "<div class=wide><table><tr><th>request</th><th>server p50</th><th>p99</th><th>database p50</th><th>p99</th>\
         <th>lane p50</th><th>p99</th><th>from memory</th></tr>"
    );
    for (op, stats) in &run.record.ops {
        let pair = |hist: &Hist| format!("<td>{}</td><td>{}</td>", ms(hist.at(50.0)), ms(hist.at(99.0)));
        let share = stats.cached as f64 / stats.requests().max(1) as f64 * 100.0;
        let _ = write!(
            body,
            "<tr><td>{}</td>{}{}{}<td>{share:.0}%</td></tr>",
            op.name(),
            pair(&stats.server_total),
            pair(&stats.server_db),
            pair(&stats.server_queue)
        );
    }
    body.push_str("</table></div><p class=soft>Milliseconds.</p>\n");
}

fn codes(run: &Run, body: &mut String) {
    let mut rows = String::new();
    for (op, stats) in &run.record.ops {
        for (what, counts) in [("refused, as expected", &stats.refused), ("error", &stats.errors)] {
            for (code, count) in counts {
                let class = if what == "error" { "bad" } else { "left" };
                let _ = write!(
                    rows,
                    "<tr><td>{}</td><td class=left>{}</td><td class={class}>{what}</td><td>{count}</td></tr>",
                    op.name(),
                    escape(code)
                );
            }
        }
        if stats.skipped > 0 {
            let _ = write!(
                rows,
                "<tr><td>{}</td><td class=left>not sent</td><td class=left>an earlier step of the sale failed</td><td>{}</td></tr>",
                op.name(),
                stats.skipped
            );
        }
    }
    if !rows.is_empty() {
        let _ = writeln!(
            body,
            "<h2>Refusals and errors</h2><div class=wide><table><tr><th>request</th><th class=left>code</th><th class=left></th><th>count</th></tr>{rows}</table></div>"
        );
    }
}

fn generator(run: &Run, body: &mut String) {
    let record = &run.record;
    let heads: String = PERCENTILES.iter().map(|(name, _)| format!("<th>{name}</th>")).collect();
    let _ = writeln!(
        body,
        "<h2>The generator itself</h2><div class=wide><table><tr><th>milliseconds</th>{heads}<th>max</th></tr>\
         <tr><td>its own lateness (bound of p99: {})</td>{}</tr><tr><td>from due to sent, waiting for a till included</td>{}</tr></table></div>\
         <p class=soft>Arrivals that waited for a till at once: at most {}. Connections made again: {}.</p>",
        ms(run.generator.lateness_p99_max_us),
        cells(&record.lateness),
        cells(&record.waited),
        record.waiting_max,
        record.reconnects
    );
}

fn coherence(run: &Run, body: &mut String) {
    let Some(seen) = &run.coherence else { return };
    let class = if seen.violations + seen.lost > 0 { "bad" } else { "good" };
    let _ = writeln!(
        body,
        "<h2>Between nodes</h2><p>{} changes on one node were looked for on another. After {} of them it was asked before it \
         knew; an old answer was given at most {} ms after the change (p99 {} ms). The stated bound is {} ms: \
         <span class={class}>{} beyond it, {} never seen</span>.</p>",
        seen.changes,
        seen.seen_old,
        ms(seen.staleness.max()),
        ms(seen.staleness.at(99.0)),
        ms(seen.bound_us),
        seen.violations,
        seen.lost
    );
}

fn findings(run: &Run, body: &mut String) {
    let Some(findings) = &run.findings else { return };
    body.push_str("<h2>Invariants</h2><div class=wide><table><tr><th>invariant</th><th class=left>says</th><th>looked at</th><th>broken</th></tr>");
    for finding in findings {
        let class = if finding.broken > 0 { "bad" } else { "good" };
        let examples: String = finding.examples.iter().map(|example| format!("<br>{}", escape(example))).collect();
        let _ = write!(
            body,
            "<tr><td>{}</td><td class=say>{}{examples}</td><td>{}</td><td class={class}>{}</td></tr>",
            escape(&finding.name),
            escape(&finding.says),
            finding.looked_at,
            finding.broken
        );
    }
    body.push_str("</table></div>\n");
}
