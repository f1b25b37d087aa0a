//! What was measured: histograms in microseconds, counts by code, and rows over time. Recorders add up, those of the threads
//! of a generator and those of several generators alike.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::{
    Histogram,
    serialization::{Deserializer, Serializer, V2Serializer},
};
use serde::{Deserialize, Serialize};

use super::{
    http::{Lost, Timing},
    op::Op,
};

/// An hour: longer is recorded as that.
const LONGEST_US: u64 = 3_600_000_000;
/// Rows over time, at most.
pub const ROWS_MAX: f64 = 240.0;

/// A histogram of microseconds that is written as base64 of HdrHistogram's V2 form, with the usual percentiles beside it.
#[derive(Debug, Clone)]
pub struct Hist(Histogram<u64>);

impl Hist {
    /// To three digits.
    pub fn fine() -> Self {
        Self::with_digits(3)
    }

    /// To two digits, of which there are many.
    pub fn coarse() -> Self {
        Self::with_digits(2)
    }

    fn with_digits(digits: u8) -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_US, digits).expect("the bounds are those of a histogram"))
    }

    pub fn record(&mut self, took: Duration) {
        self.record_us(us_of(took));
    }

    pub fn record_us(&mut self, us: u64) {
        self.0.saturating_record(us);
    }

    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// In microseconds; 0 when nothing was recorded.
    pub fn at(&self, percentile: f64) -> u64 {
        if self.0.is_empty() { 0 } else { self.0.value_at_quantile(percentile / 100.0).min(self.0.max()) }
    }

    pub fn max(&self) -> u64 {
        self.0.max()
    }

    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// Percentile and microseconds, for a curve: nine steps for each further nine, as far as there are values for one.
    pub fn curve(&self) -> Vec<(f64, u64)> {
        let last = 100.0 * (1.0 - 1.0 / self.count().max(1) as f64);
        let steps =
            self.0.iter_quantiles(9).map(|step| (step.quantile_iterated_to() * 100.0, step.value_iterated_to()));
        if self.0.is_empty() { Vec::new() } else { steps.map(|(at, us)| (at.min(last), us)).collect() }
    }
}

#[derive(Serialize, Deserialize)]
struct Written {
    count: u64,
    mean_us: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p99_9_us: u64,
    max_us: u64,
    hdr_v2: String,
}

impl Serialize for Hist {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&self.0, &mut bytes).map_err(serde::ser::Error::custom)?;
        let written = Written {
            count: self.count(),
            mean_us: (self.mean() * 10.0).round() / 10.0,
            p50_us: self.at(50.0),
            p90_us: self.at(90.0),
            p99_us: self.at(99.0),
            p99_9_us: self.at(99.9),
            max_us: self.max(),
            hdr_v2: base64::engine::general_purpose::STANDARD.encode(bytes),
        };
        written.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Hist {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine as _;
        use serde::de::Error;
        let written = Written::deserialize(deserializer)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(written.hdr_v2).map_err(D::Error::custom)?;
        let histogram = Deserializer::new().deserialize(&mut &bytes[..]).map_err(D::Error::custom)?;
        Ok(Self(histogram))
    }
}

/// One kind of request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpStats {
    /// Granted.
    pub ok: u64,
    /// Refused as the workload expects, by code.
    pub refused: BTreeMap<String, u64>,
    /// Everything else, by code; names in brackets are the generator's: no answer came.
    pub errors: BTreeMap<String, u64>,
    /// Not sent, since an earlier step of the same sale failed.
    pub skipped: u64,
    /// From the instant at which it was due to the end of the answer: what a customer waits. Errors count with the time
    /// until they were known.
    pub latency: Hist,
    /// From the instant at which it was sent.
    pub service: Hist,
    /// The server's own account.
    pub server_total: Hist,
    pub server_db: Hist,
    pub server_queue: Hist,
    /// Answers out of a cache.
    pub cached: u64,
}

impl Default for OpStats {
    fn default() -> Self {
        Self {
            ok: 0,
            refused: BTreeMap::new(),
            errors: BTreeMap::new(),
            skipped: 0,
            latency: Hist::fine(),
            service: Hist::fine(),
            server_total: Hist::fine(),
            server_db: Hist::fine(),
            server_queue: Hist::fine(),
            cached: 0,
        }
    }
}

impl OpStats {
    pub fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Requests that were sent.
    pub fn requests(&self) -> u64 {
        self.ok + self.refusals() + self.failures()
    }

    fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.skipped += other.skipped;
        self.cached += other.cached;
        for (mine, theirs) in [(&mut self.refused, &other.refused), (&mut self.errors, &other.errors)] {
            for (code, count) in theirs {
                *mine.entry(code.clone()).or_default() += count;
            }
        }
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.server_total.add(&other.server_total);
        self.server_db.add(&other.server_db);
        self.server_queue.add(&other.server_queue);
    }
}

/// What happened in one interval. Requests stand where they were due, but for `answered`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    pub due: u64,
    pub ok: u64,
    pub refused: u64,
    pub failed: u64,
    /// Answers that came in the interval.
    pub answered: u64,
    pub latency: Hist,
}

impl Default for Row {
    fn default() -> Self {
        Self { due: 0, ok: 0, refused: 0, failed: 0, answered: 0, latency: Hist::coarse() }
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End<'a> {
    Ok,
    Refused(&'a str),
    /// By the code of its answer, or by a name in brackets when none came.
    Failed(&'a str),
}

/// It never left the generator.
pub const NEVER_SENT: &str = "(never sent)";
/// So many waited for a till that the one that had waited longest made room: it never left the generator, either.
pub const GENERATOR_BEHIND: &str = "(generator_behind)";

impl End<'_> {
    /// Whether an answer came, be it an error.
    fn is_answer(self) -> bool {
        !matches!(self, Self::Failed(code) if code.starts_with('('))
    }

    fn was_sent(self) -> bool {
        let unsent = [NEVER_SENT, GENERATOR_BEHIND, Lost::Unreachable.name()];
        !matches!(self, Self::Failed(code) if unsent.contains(&code))
    }
}

/// Everything that one generator, or one of its threads, has measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    pub ops: BTreeMap<Op, OpStats>,
    pub interval_secs: f64,
    pub rows: Vec<Row>,
    /// How late the generator itself was: from the instant at which something was due to the one at which it could have
    /// been sent, had a till been free.
    pub lateness: Hist,
    /// From due to sent, waiting for a till included.
    pub waited: Hist,
    /// Arrivals that waited for a till at once, at most.
    pub waiting_max: u64,
    /// Connections made after the start.
    pub reconnects: u64,
    /// When the last answer came, in microseconds after the start.
    #[serde(default)]
    pub last_answer_us: u64,
}

/// When a request was due, sent and answered, after the start.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub due: Duration,
    pub sent: Duration,
    pub done: Duration,
}

impl Default for Record {
    fn default() -> Self {
        Self::new(1.0)
    }
}

impl Record {
    /// For a run of so many seconds.
    pub fn new(seconds: f64) -> Self {
        Self {
            ops: BTreeMap::new(),
            interval_secs: (seconds / ROWS_MAX).ceil().max(1.0),
            rows: Vec::new(),
            lateness: Hist::fine(),
            waited: Hist::fine(),
            waiting_max: 0,
            reconnects: 0,
            last_answer_us: 0,
        }
    }

    fn row(&mut self, at: Duration) -> &mut Row {
        let no = (at.as_secs_f64() / self.interval_secs) as usize;
        if self.rows.len() <= no {
            self.rows.resize_with(no + 1, Row::default);
        }
        &mut self.rows[no]
    }

    pub fn request(&mut self, op: Op, times: Times, end: End<'_>, timing: Timing) {
        let latency = times.done.saturating_sub(times.due);
        let stats = self.ops.entry(op).or_default();
        match end {
            End::Ok => stats.ok += 1,
            End::Refused(code) => count(&mut stats.refused, code),
            End::Failed(code) => count(&mut stats.errors, code),
        }
        stats.latency.record(latency);
        if end.was_sent() {
            stats.service.record(times.done.saturating_sub(times.sent));
        }
        for (hist, us) in [
            (&mut stats.server_total, timing.total_us),
            (&mut stats.server_db, timing.db_us),
            (&mut stats.server_queue, timing.queue_us),
        ] {
            if let Some(us) = us {
                hist.record_us(us);
            }
        }
        stats.cached += u64::from(timing.cached);
        self.waited.record(times.sent.saturating_sub(times.due));
        let row = self.row(times.due);
        row.due += 1;
        match end {
            End::Ok => row.ok += 1,
            End::Refused(_) => row.refused += 1,
            End::Failed(_) => row.failed += 1,
        }
        row.latency.record(latency);
        if end.is_answer() {
            self.row(times.done).answered += 1;
            self.last_answer_us = self.last_answer_us.max(us_of(times.done));
        }
    }

    pub fn skipped(&mut self, op: Op) {
        self.ops.entry(op).or_default().skipped += 1;
    }

    /// Adds another's; its rows begin so many seconds after ours.
    pub fn add(&mut self, other: &Self, later_secs: f64) {
        for (op, stats) in &other.ops {
            self.ops.entry(*op).or_default().add(stats);
        }
        self.lateness.add(&other.lateness);
        self.waited.add(&other.waited);
        self.waiting_max += other.waiting_max;
        self.reconnects += other.reconnects;
        let theirs = Duration::from_micros(other.last_answer_us).as_secs_f64() + later_secs;
        self.last_answer_us = self.last_answer_us.max(us_of(Duration::from_secs_f64(theirs.max(0.0))));
        for (no, theirs) in other.rows.iter().enumerate() {
            let at = no as f64 * other.interval_secs + later_secs + other.interval_secs / 2.0;
            let mine = self.row(Duration::from_secs_f64(at.max(0.0)));
            mine.due += theirs.due;
            mine.ok += theirs.ok;
            mine.refused += theirs.refused;
            mine.failed += theirs.failed;
            mine.answered += theirs.answered;
            mine.latency.add(&theirs.latency);
        }
    }

    pub fn requests(&self) -> u64 {
        self.ops.values().map(OpStats::requests).sum()
    }

    pub fn failures(&self) -> u64 {
        self.ops.values().map(OpStats::failures).sum()
    }

    /// Latency of all requests.
    pub fn latency(&self) -> Hist {
        let mut all = Hist::fine();
        for stats in self.ops.values() {
            all.add(&stats.latency);
        }
        all
    }
}

fn us_of(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(LONGEST_US)
}

fn count(counts: &mut BTreeMap<String, u64>, code: &str) {
    match counts.get_mut(code) {
        Some(count) => *count += 1,
        None => {
            counts.insert(code.to_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn record(shift: u64) -> Record {
        let mut record = Record::new(10.0);
        for n in 0..1000 {
            let due = ms(n * 10);
            let times = Times { due, sent: due + ms(1), done: due + ms(2 + shift + n % 50) };
            let end = if n % 100 == 0 { End::Failed("overloaded") } else { End::Ok };
            record.request(Op::Redeem, times, end, Timing { total_us: Some(900), ..Timing::default() });
        }
        record
    }

    #[test]
    fn a_stall_of_the_server_counts_for_every_request_that_was_due_in_it() {
        let mut record = Record::new(2.0);
        // Nothing is answered between 0.5 s and 1.5 s; all wait for it, whoever was sent late.
        for n in 0..100 {
            let due = ms(n * 20);
            let done = if (ms(500)..ms(1_500)).contains(&due) { ms(1_500) } else { due };
            record.request(Op::Lookup, Times { due, sent: done, done: done + ms(1) }, End::Ok, Timing::default());
        }
        let stats = &record.ops[&Op::Lookup];
        assert!(stats.latency.at(50.0) >= 1_000 && stats.latency.at(60.0) > 100_000);
        assert!(stats.service.max() < 1_100, "what was sent late answers fast, and says nothing of the wait");
    }

    #[test]
    fn written_and_read_again_it_is_the_same_and_two_add_up() {
        let (mut first, second) = (record(0), record(5));
        let text = serde_json::to_string(&second).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        first.add(&read, 0.0);
        let stats = &first.ops[&Op::Redeem];
        assert_eq!((stats.requests(), stats.failures(), stats.latency.count()), (2000, 20, 2000));
        let mut apart = record(0).ops[&Op::Redeem].latency.clone();
        apart.add(&second.ops[&Op::Redeem].latency);
        assert_eq!(stats.latency.at(99.0), apart.at(99.0));
        assert_eq!(first.rows.iter().map(|row| row.due).sum::<u64>(), 2000);
        assert_eq!(first.rows.iter().map(|row| row.answered).sum::<u64>(), 2000);
    }

    #[test]
    fn what_was_never_answered_counts_as_an_error_and_not_as_an_answer() {
        let mut record = Record::new(2.0);
        let times = |done| Times { due: ms(100), sent: done, done };
        record.request(Op::Lookup, times(ms(300)), End::Ok, Timing::default());
        record.request(Op::Lookup, times(ms(32_000)), End::Failed(NEVER_SENT), Timing::default());
        record.request(Op::Lookup, times(ms(400)), End::Failed("overloaded"), Timing::default());
        let stats = &record.ops[&Op::Lookup];
        assert_eq!((stats.requests(), stats.failures(), stats.latency.count(), stats.service.count()), (3, 2, 3, 2));
        assert_eq!(record.rows.iter().map(|row| row.answered).sum::<u64>(), 2);
        assert_eq!(record.last_answer_us, 400_000);
    }

    #[test]
    fn rows_of_a_generator_that_began_later_stand_later() {
        let mut first = record(0);
        first.add(&record(0), 3.0);
        let due: Vec<u64> = first.rows.iter().map(|row| row.due).take(13).collect();
        assert_eq!(due, [100, 100, 100, 200, 200, 200, 200, 200, 200, 200, 100, 100, 100]);
    }
}
