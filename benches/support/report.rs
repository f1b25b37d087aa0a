//! The lines a bench ends with: a subject beside its reference, measured in turns in one run, and the goal.

use std::{fs, path::PathBuf, time::Duration};

use criterion::Criterion;

const HEAD: [&str; 6] = ["path", "tasks", "subject", "reference", "ratio", "goal"];

/// Short, and on small tables: for CI, as information.
pub fn is_quick() -> bool {
    std::env::var_os("TESSERA_BENCH_QUICK").is_some_and(|value| value != "0")
}

/// Criterion with its times in milliseconds; in a quick run as short as it lets itself be. The ratios are measured besides.
pub fn criterion(samples: usize, warm_up_ms: u64, measurement_ms: u64) -> Criterion {
    let (criterion, part) = match is_quick() {
        true => (Criterion::default().without_plots().sample_size(10).nresamples(1_001), 10),
        false => (Criterion::default().sample_size(samples), 1),
    };
    criterion
        .warm_up_time(Duration::from_millis((warm_up_ms / part).max(1)))
        .measurement_time(Duration::from_millis(measurement_ms / part))
}

/// The lines of one bench. Printed and written to `criterion-ratios/<bench>.txt` in the target directory.
pub struct Report {
    bench: &'static str,
    lines: Vec<[String; 6]>,
}

impl Report {
    pub fn new(bench: &'static str) -> Self {
        Self { bench, lines: Vec::new() }
    }

    /// `goal` is `≥ 3`, `≤ 1.2`, or `-` where there is none: a ratio is a piece of information, and fails nothing.
    pub fn add(&mut self, path: &str, tasks: &str, subject: String, reference: String, ratio: f64, goal: &str) {
        let verdict = match goal.split_once(' ').and_then(|(sign, bound)| Some((sign, bound.parse::<f64>().ok()?))) {
            Some(("≥", bound)) => {
                if ratio >= bound {
                    ", met"
                } else {
                    ", missed"
                }
            }
            Some(("≤", bound)) => {
                if ratio <= bound {
                    ", met"
                } else {
                    ", missed"
                }
            }
            _ => "",
        };
        let goal = format!("{goal}{verdict}");
        self.lines.push([path.into(), tasks.into(), subject, reference, format!("{ratio:.2}"), goal]);
    }

    /// Prints and writes what was added; nothing when a filter left nothing.
    pub fn finish(self) {
        if self.lines.is_empty() {
            return;
        }
        let head = HEAD.map(str::to_owned);
        let width = |column: usize| {
            self.lines.iter().chain([&head]).map(|line| line[column].chars().count()).max().unwrap_or_default()
        };
        let mut text = String::new();
        for line in [&head].into_iter().chain(&self.lines) {
            let cells: Vec<String> =
                line.iter().enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
            text.push_str(cells.join(" | ").trim_end());
            text.push('\n');
        }
        println!("\n{text}");
        let dir = target_dir().join("criterion-ratios");
        let path = dir.join(format!("{}.txt", self.bench));
        if let Err(error) = fs::create_dir_all(&dir).and_then(|()| fs::write(&path, text)) {
            eprintln!("{} was not written: {error}", path.display());
        }
    }
}

/// The program lies in `<target>/<profile>/deps`.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).map_or_else(|| "target".into(), PathBuf::from)
}
