//! The result of a run as it is kept: JSON that the other commands read.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{check::Finding, coherence::Coherent, record::Record, workload::Workload};

const FORMAT: &str = "tessera load run";
const VERSION: u32 = 1;
/// A generator that is later than this in one of a hundred cases measures itself.
pub const LATENESS_P99_MAX_US: u64 = 5_000;

/// A run, or several that were merged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    format: String,
    version: u32,
    /// Names the run in orders and rules; of merged ones all, by plus.
    pub run: String,
    pub workload: Workload,
    pub seed: u64,
    pub started_at: DateTime<Utc>,
    pub urls: Vec<String>,
    pub server: Build,
    pub generator: Generator,
    pub record: Record,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coherence: Option<Coherent>,
    /// What the checker found; absent while nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<Finding>>,
    /// Where what was acknowledged stands.
    pub journals: Vec<PathBuf>,
    /// What a reader must know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What went wrong with that which was to be done besides sending requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mishaps: Vec<String>,
    /// It was stopped before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<Interrupted>,
    /// Why parts of a merged run are invalid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    invalid_parts: Vec<String>,
}

/// How far a run came that was stopped before its end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interrupted {
    /// Requests were due for so long; of merged runs that of the one which came furthest.
    pub after_seconds: f64,
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub version: String,
    pub profile: String,
}

/// What sent the load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Generator {
    pub version: String,
    pub profile: String,
    /// Generators whose results stand here.
    pub generators: usize,
    pub threads: usize,
    pub cores: usize,
    /// Above this the run is invalid, in microseconds.
    pub lateness_p99_max_us: u64,
}

impl Run {
    #[expect(clippy::too_many_arguments, reason = "all of a run")]
    pub fn new(
        run: String,
        workload: Workload,
        seed: u64,
        started_at: DateTime<Utc>,
        urls: Vec<String>,
        server: Build,
        generator: Generator,
        record: Record,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            run,
            workload,
            seed,
            started_at,
            urls,
            server,
            generator,
            record,
            coherence: None,
            findings: None,
            journals: Vec::new(),
            notes: Vec::new(),
            mishaps: Vec::new(),
            interrupted: None,
            invalid_parts: Vec::new(),
        }
    }

    /// # Errors
    /// When the file is not the result of a run.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let run: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not the result of a load test", path.display()))?;
        ensure!(
            run.format == FORMAT && run.version == VERSION,
            "{} was written by another version of loadtest; run it again",
            path.display()
        );
        Ok(run)
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Requests a second that were answered as they should be, over the time in which they were due.
    pub fn answered_per_second(&self) -> f64 {
        let good = self.record.requests() - self.record.failures();
        good as f64 / self.span_secs()
    }

    /// From the start of the schedule to the last answer, at least as long as requests were due.
    pub fn span_secs(&self) -> f64 {
        (self.record.last_answer_us as f64 / 1e6).max(self.due_secs()).max(1e-3)
    }

    /// How long requests were due.
    pub fn due_secs(&self) -> f64 {
        self.interrupted.map_or(self.workload.seconds, |interrupted| interrupted.after_seconds)
    }

    pub fn error_share(&self) -> f64 {
        let requests = self.record.requests();
        if requests == 0 { 0.0 } else { self.record.failures() as f64 / requests as f64 }
    }

    /// Why its figures say little of the server; nothing when they are good.
    pub fn invalid(&self) -> Vec<String> {
        let mut why = Vec::new();
        let (late, bound) = (self.record.lateness.at(99.0), self.generator.lateness_p99_max_us);
        if late > bound {
            why.push(format!(
                "the generator was behind: 1 of 100 requests was ready more than {:.1} ms after it was due (bound {:.1} ms); \
                 give it cores of its own, lower the rate, or share it out with --part",
                late as f64 / 1e3,
                bound as f64 / 1e3
            ));
        }
        if self.record.requests() == 0 {
            why.push("nothing was sent".to_owned());
        }
        why.extend(self.invalid_parts.iter().cloned());
        why
    }

    /// What is wrong with the server, as far as the run shows.
    pub fn failures(&self) -> Vec<String> {
        let mut why = Vec::new();
        if self.error_share() > self.workload.errors_max {
            let (share, most) = (self.error_share() * 100.0, self.workload.errors_max * 100.0);
            why.push(format!("{share:.3}% of the requests failed, more than the workload's {most:.3}%"));
        }
        if let Some(coherent) = &self.coherence {
            why.extend(coherent.failures());
        }
        why.extend(self.mishaps.iter().cloned());
        let broken = self.findings.iter().flatten().filter(|finding| finding.broken > 0);
        why.extend(
            broken.map(|finding| format!("invariant {}: {} broken: {}", finding.name, finding.broken, finding.says)),
        );
        why
    }

    /// Adds another generator's part of the same load.
    ///
    /// # Errors
    /// When the two are not of one workload.
    pub fn merge(&mut self, other: &Self) -> anyhow::Result<()> {
        ensure!(
            self.workload.name == other.workload.name && self.workload.seconds == other.workload.seconds,
            "runs of different workloads ({} for {} s, {} for {} s) are not merged but compared",
            self.workload.name,
            self.workload.seconds,
            other.workload.name,
            other.workload.seconds
        );
        let names = |run: &Self| run.run.split('+').map(str::to_owned).collect::<HashSet<_>>();
        if let Some(name) = names(self).intersection(&names(other)).next() {
            bail!("the run {name} is in both: it would count twice");
        }
        ensure!(
            self.server == other.server && self.generator.profile == other.generator.profile,
            "{} and {} were made with different builds",
            self.run,
            other.run
        );
        // Among the requests of all, those of one that was behind may be too few to show.
        let invalid = |run: &Self| match run.generator.generators {
            1 => run.invalid().into_iter().map(|why| format!("{}: {why}", run.run)).collect(),
            _ => run.invalid_parts.clone(),
        };
        self.invalid_parts = [invalid(self), invalid(other)].concat();
        let later = (other.started_at - self.started_at).as_seconds_f64();
        if later.abs() > 2.0 * self.record.interval_secs {
            self.notes.push(format!(
                "{} began {later:.1} s apart from {}: start generators together, with --start-at",
                other.run, self.run
            ));
        }
        if later < 0.0 {
            // The rows of the later one are moved.
            let mut first = other.record.clone();
            first.add(&self.record, -later);
            self.record = first;
            self.started_at = other.started_at;
        } else {
            self.record.add(&other.record, later);
        }
        if self.interrupted.or(other.interrupted).is_some() {
            self.interrupted = Some(Interrupted { after_seconds: self.due_secs().max(other.due_secs()) });
        }
        self.workload.rate += other.workload.rate;
        self.workload.tills += other.workload.tills;
        self.run = format!("{}+{}", self.run, other.run);
        self.generator.generators += other.generator.generators;
        self.generator.threads += other.generator.threads;
        self.journals.extend(other.journals.iter().cloned());
        self.notes.extend(other.notes.iter().cloned());
        self.mishaps.extend(other.mishaps.iter().cloned());
        self.coherence = match (self.coherence.take(), &other.coherence) {
            (Some(mine), Some(theirs)) => Some(mine.and(theirs)),
            (mine, theirs) => mine.or_else(|| theirs.clone()),
        };
        // Both have looked at one database, or nobody has looked at it all.
        self.findings = match (self.findings.take(), &other.findings) {
            (Some(mut mine), Some(theirs)) => {
                mine.extend(theirs.iter().cloned());
                Some(mine)
            }
            _ => None,
        };
        Ok(())
    }
}
