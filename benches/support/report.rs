//! What a run ends with: each subject beside its reference, measured in turns, and the table of goals.

use std::{fmt::Write, fs, path::PathBuf};

use super::{
    goals::{GOALS, verdict},
    machine,
};

/// Short, and on small tables: for CI, as information.
pub fn is_quick() -> bool {
    std::env::var_os("TESSERA_BENCH_QUICK").is_some_and(|value| value != "0")
}

/// A subject and a reference.
struct Line {
    file: &'static str,
    path: String,
    tasks: String,
    subject: String,
    reference: String,
    ratio: f64,
    /// Of the table of goals; empty for one that is told besides.
    row: &'static str,
}

/// The lines of a run.
#[derive(Default)]
pub struct Report {
    lines: Vec<Line>,
    /// Said under the tables.
    notes: Vec<String>,
    began: String,
}

impl Report {
    pub fn new() -> Self {
        Self { began: machine::load(), ..Self::default() }
    }

    /// A line, printed at once. `row` is that of the table of goals that it answers, or empty: a ratio is a piece of
    /// information, and fails nothing.
    #[expect(clippy::too_many_arguments, reason = "the columns of a line")]
    pub fn add(
        &mut self,
        file: &'static str,
        path: &str,
        tasks: impl ToString,
        subject: String,
        reference: String,
        ratio: f64,
        row: &'static str,
    ) {
        assert!(row.is_empty() || GOALS.iter().any(|goal| goal.row == row), "there is no goal {row}");
        println!("{path} | {} | {subject} | {reference} | {ratio:.2}", tasks.to_string());
        let (path, tasks) = (path.to_owned(), tasks.to_string());
        self.lines.push(Line { file, path, tasks, subject, reference, ratio, row });
        // A run that fails in its middle leaves what it had.
        self.write("It has not come to its end.");
    }

    /// A sentence for the end.
    pub fn note(&mut self, note: String) {
        println!("{note}");
        self.notes.push(note);
    }

    /// Prints the tables and writes them: `bench-report.md` in the target directory, or where `TESSERA_BENCH_REPORT` says.
    pub fn finish(self, what: &str) {
        println!("\n{}", self.text(what));
        self.write(what);
    }

    fn write(&self, what: &str) {
        let place = std::env::var_os("TESSERA_BENCH_REPORT");
        let place = place.map_or_else(|| target_dir().join("bench-report.md"), PathBuf::from);
        if let Err(error) = fs::write(&place, self.text(what)) {
            eprintln!("{} was not written: {error}", place.display());
        }
    }

    fn text(&self, what: &str) -> String {
        let mut text =
            format!("# Tessera: what is compared with what\n\n{}\n{what}\n\n", machine::describe(&self.began));
        let head = ["bench", "path", "tasks", "subject", "reference", "ratio"];
        let rows = self.lines.iter().map(|line| {
            let ratio = format!("{:.2}", line.ratio);
            [line.file, &line.path, &line.tasks, &line.subject, &line.reference, &ratio].map(str::to_owned).to_vec()
        });
        text += &table(&head, rows.collect());
        for note in &self.notes {
            let _ = write!(text, "\n{note}\n");
        }
        text += "\n## Goals\n\n";
        let head = ["path", "subject", "reference", "measured", "ratio", "goal", "met"];
        let rows = GOALS.iter().map(|goal| {
            let measured = self.lines.iter().find(|line| line.row == goal.row);
            let (subject, reference, ratio, met) = match measured {
                Some(line) => {
                    let met = if verdict(goal.goal, line.ratio).unwrap_or_default() { "yes" } else { "**no**" };
                    (line.subject.clone(), line.reference.clone(), format!("{:.2}", line.ratio), met.to_owned())
                }
                None => ("–".to_owned(), "–".to_owned(), "–".to_owned(), format!("not measured: {}", goal.needs)),
            };
            vec![goal.path.into(), subject, goal.reference.into(), reference, ratio, goal.goal.into(), met]
        });
        text + &table(&head, rows.collect())
    }
}

/// A table of Markdown that is also read as it stands.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let head: Vec<String> = head.iter().map(|&title| title.to_owned()).collect();
    let width =
        |column: usize| rows.iter().chain([&head]).map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let rule: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
    let mut text = String::new();
    for row in [&head, &rule].into_iter().chain(&rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// The program lies in `<target>/<profile>/deps`.
fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().nth(3).map_or_else(|| "target".into(), PathBuf::from)
}
