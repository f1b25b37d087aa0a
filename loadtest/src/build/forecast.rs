//! Whether it fits, before anything is written: bytes and time by what a row of each table was measured to take.

use std::{fmt::Write as _, path::Path};

use indicatif::{HumanBytes, HumanCount, HumanDuration};

use super::source::{SOURCES, Source};
use crate::dataset::Dataset;

/// What a build needs and what there is.
#[derive(Debug, Clone)]
pub struct Forecast {
    pub rows: u64,
    pub data_bytes: u64,
    pub wal_bytes: u64,
    /// For sorting keys that do not fit into memory.
    pub spill_bytes: u64,
    pub memory_bytes: u64,
    pub secs: f64,
    pub lines: Vec<String>,
}

/// What a leaf takes besides its rows: a connection, a table, its attachment, its statistics.
const LEAF_SECS: f64 = 0.3;
/// What a walk holds besides what it sorts: the connections of its leaves, and messages on their way.
const WALK_BYTES: u64 = 384 << 20;

/// A table's bytes in the heap and in its keys by row, by `loadtest sizes`, and microseconds of one core by row.
const fn measured(source: Source) -> (u64, u64, f64) {
    match source {
        Source::Members => (265, 25, 7.6),
        Source::Auths => (121, 44, 4.0),
        Source::Keys => (72, 33, 1.9),
        Source::Registrations => (79, 60, 2.2),
        Source::Coupons => (132, 24, 3.0),
        Source::Received => (76, 32, 2.8),
        Source::Index => (75, 37, 3.3),
        Source::History => (53, 37, 7.5),
        Source::Taken => (76, 32, 1.2),
        Source::Uses => (166, 92, 7.9),
        Source::Requests => (416, 60, 21.0),
        Source::Events => (302, 100, 44.0),
    }
}

impl Forecast {
    /// For a build on so many cores whose database keeps at most so much of its log.
    pub fn new(dataset: &Dataset, at_once: usize, work_bytes: u64, wal_bytes_max: u64) -> Self {
        let mut lines = Vec::new();
        let (mut rows, mut data_bytes, mut micros) = (0, 0, 0.0);
        for source in SOURCES {
            let (count, (heap, keys, cost)) = (source.rows(dataset), measured(source));
            rows += count;
            data_bytes += count * (heap + keys);
            micros += count as f64 * cost + source.leaves(dataset).len() as f64 * LEAF_SECS * 1e6;
            lines.push(format!(
                "{:22} {:>14} rows {:>5} + {:>3} bytes each {:>11}",
                source.table(),
                HumanCount(count).to_string(),
                heap,
                keys,
                HumanBytes(count * (heap + keys)).to_string()
            ));
        }
        // What is copied stands in the log once; of that a checkpoint leaves as much as the server keeps.
        let wal_bytes = data_bytes.min(wal_bytes_max);
        let memory_bytes = at_once as u64 * (work_bytes + WALK_BYTES) + (256 << 20);
        let (spill_bytes, secs) = (at_once as u64 * work_bytes, micros / 1e6 / at_once as f64);
        Self { rows, data_bytes, wal_bytes, spill_bytes, memory_bytes, secs, lines }
    }

    pub fn disk_bytes(&self) -> u64 {
        self.data_bytes + self.wal_bytes + self.spill_bytes
    }

    pub fn render(&self) -> String {
        let mut text = self.lines.join("\n");
        let _ = write!(
            text,
            "\n{} rows: {} of data and {} of log on disk, {} of memory besides the server's own, about {}",
            HumanCount(self.rows),
            HumanBytes(self.data_bytes),
            HumanBytes(self.wal_bytes),
            HumanBytes(self.memory_bytes),
            HumanDuration(std::time::Duration::from_secs_f64(self.secs))
        );
        text
    }

    /// Why it does not fit, if it does not. What cannot be seen is not held against it.
    pub fn refusal(&self, disk_free: Option<u64>, memory_free: Option<u64>) -> Option<String> {
        let lacks = |what: &str, needed: u64, free: Option<u64>| {
            let free = free.filter(|free| *free < needed)?;
            Some(format!("it needs {} of {what} and {} are free", HumanBytes(needed), HumanBytes(free)))
        };
        lacks("disk", self.disk_bytes(), disk_free).or_else(|| lacks("memory", self.memory_bytes, memory_free))
    }
}

/// Bytes that are free where a directory is.
pub fn disk_free(path: &Path) -> Option<u64> {
    // The directory of a server belongs to its user: what may not be looked into has a parent that may.
    path.ancestors().find_map(|path| fs2::available_space(path).ok())
}

/// Bytes that programs can have without swapping.
pub fn memory_free() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use tessera::clock::Zone;

    use super::*;
    use crate::dataset::Shape;

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let at = "2026-11-22T07:00:00Z".parse().unwrap();
        let dataset = Dataset::new(&Shape::new(1, 1_000, 5_000, at, Zone::DEFAULT));
        let forecast = Forecast::new(&dataset, 2, 64 << 20, 1 << 30);
        let disk = forecast.disk_bytes();
        assert_eq!(forecast.refusal(Some(disk), Some(1 << 40)), None);
        assert_eq!(forecast.refusal(None, None), None);
        assert!(forecast.refusal(Some(disk - 1), None).unwrap().contains("of disk"));
        assert!(forecast.refusal(None, Some(1)).unwrap().contains("of memory"));
    }
}
