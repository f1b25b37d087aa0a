//! `loadtest prove-sizes`: what `tessera prove` says at several sizes, side by side.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What `tessera prove --json` printed at each size, as `1M=prove-1m.json`, the smallest first. One that was printed
    /// several times counts with its least time: `1M=a.json 1M=b.json`.
    #[arg(required = true, value_parser = parse_run, value_name = "SIZE=FILE")]
    pub runs: Vec<Run>,
}

#[derive(Debug, Clone)]
pub struct Run {
    size: String,
    file: PathBuf,
}

/// What one query did.
#[derive(Debug, Clone, Deserialize)]
struct Proven {
    query: String,
    leaves: String,
    executed: u64,
    buffers: u64,
    ms: f64,
    ok: bool,
}

/// Queries in the order in which they were proved, by size.
struct Table {
    sizes: Vec<String>,
    queries: Vec<String>,
    found: BTreeMap<(String, String), Proven>,
}

fn parse_run(text: &str) -> Result<Run, String> {
    let (size, file) = text.split_once('=').ok_or("must be like `1M=prove-1m.json`")?;
    Ok(Run { size: size.to_owned(), file: file.into() })
}

/// Prints a table in Markdown.
///
/// # Errors
/// When a file cannot be read, or a query failed its proof.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut runs = Vec::new();
    for run in &args.runs {
        let text = std::fs::read(&run.file).with_context(|| format!("{} cannot be read", run.file.display()))?;
        let proven: Vec<Proven> = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not what `tessera prove --json` prints", run.file.display()))?;
        runs.push((run.size.clone(), proven));
    }
    let table = Table::new(runs);
    print!("{}", table.render());
    let failed = table.found.values().filter(|proven| !proven.ok).count();
    ensure!(failed == 0, "{failed} proofs failed");
    Ok(())
}

impl Table {
    fn new(runs: Vec<(String, Vec<Proven>)>) -> Self {
        let mut table = Self { sizes: Vec::new(), queries: Vec::new(), found: BTreeMap::new() };
        for (size, proven) in runs {
            if !table.sizes.contains(&size) {
                table.sizes.push(size.clone());
            }
            for one in proven {
                if !table.queries.contains(&one.query) {
                    table.queries.push(one.query.clone());
                }
                let known = table.found.entry((one.query.clone(), size.clone())).or_insert_with(|| one.clone());
                // The first run of a statement reads what later ones find in memory.
                known.ms = known.ms.min(one.ms);
                known.ok &= one.ok;
                known.executed = known.executed.max(one.executed);
                known.buffers = known.buffers.min(one.buffers);
            }
        }
        table
    }

    fn at(&self, query: &str, size: &str) -> Option<&Proven> {
        self.found.get(&(query.to_owned(), size.to_owned()))
    }

    fn render(&self) -> String {
        let head = |what: &str| self.sizes.iter().map(|size| format!(" {what} {size} |")).collect::<String>();
        let mut text = format!("| query | claims |{}{}{}\n", head("leaves"), head("buffers"), head("ms"));
        text += &format!("|---|---|{}\n", "--:|".repeat(3 * self.sizes.len()));
        let (mut changed, mut grown, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for query in &self.queries {
            let cells = |show: &dyn Fn(&Proven) -> String| -> String {
                let cell = |size: &String| self.at(query, size).map_or_else(|| "–".to_owned(), show);
                self.sizes.iter().map(|size| format!(" {} |", cell(size))).collect()
            };
            let claims = self.sizes.iter().find_map(|size| self.at(query, size)).map_or("", |proven| &proven.leaves);
            let _ = writeln!(
                text,
                "| `{query}` | {claims} |{}{}{}",
                cells(&|proven| proven.executed.to_string()),
                cells(&|proven| proven.buffers.to_string()),
                cells(&|proven| format!("{:.3}", proven.ms)),
            );
            let found: Vec<&Proven> = self.sizes.iter().filter_map(|size| self.at(query, size)).collect();
            let name = || format!("`{query}`");
            changed.extend(found.windows(2).any(|pair| pair[0].executed != pair[1].executed).then(name));
            missing.extend((found.len() < self.sizes.len()).then(name));
            let buffers: Vec<u64> = found.iter().map(|proven| proven.buffers).collect();
            grown.extend(buffers.iter().any(|more| *more > 2 * buffers[0]).then(name));
        }
        let _ = match changed.is_empty() {
            true => writeln!(text, "\n{} queries; each executes as many leaves at every size.", self.queries.len()),
            false => {
                writeln!(text, "\n{} queries; other leaves at other sizes: {}.", self.queries.len(), changed.join(", "))
            }
        };
        for (what, queries) in
            [("more than twice the buffers of the first size", grown), ("not proved at each size", missing)]
        {
            if !queries.is_empty() {
                let _ = writeln!(text, "\n{what}: {}.", queries.join(", "));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proven(query: &str, executed: u64, ms: f64) -> Proven {
        Proven { query: query.into(), leaves: "coupon=1".into(), executed, buffers: 4, ms, ok: true }
    }

    #[test]
    fn sizes_stand_side_by_side_with_their_least_times() {
        let small = vec![proven("coupon/find", 1, 0.5), proven("coupon/list", 1, 0.5)];
        let again = vec![proven("coupon/find", 1, 0.25)];
        let large = vec![proven("coupon/find", 1, 0.75), proven("coupon/list", 3, 0.5)];
        let table = Table::new(vec![("1M".into(), small), ("1M".into(), again), ("9M".into(), large)]);
        let text = table.render();
        assert!(text.contains("| `coupon/find` | coupon=1 | 1 | 1 | 4 | 4 | 0.250 | 0.750 |"), "{text}");
        assert!(text.ends_with("2 queries; other leaves at other sizes: `coupon/list`.\n"), "{text}");
    }

    #[test]
    fn what_grows_and_what_was_not_proved_is_named() {
        let many = Proven { buffers: 9, ..proven("coupon/find", 1, 0.5) };
        let (small, large) = (vec![proven("coupon/find", 1, 0.5)], vec![many, proven("coupon/list", 1, 0.5)]);
        let text = Table::new(vec![("1M".into(), small), ("9M".into(), large)]).render();
        assert!(text.contains("more than twice the buffers of the first size: `coupon/find`."), "{text}");
        assert!(text.contains("not proved at each size: `coupon/list`."), "{text}");
    }
}
