//! What a request has cost, as a `Server-Timing` header and as metrics by route.

use std::fmt::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::http::Method;
use metrics::{Counter, Histogram, counter, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::meter::Meter;

const SECONDS: &[f64] =
    &[0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0];
const COUNTS: &[f64] = &[0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0];

/// Installs the process's recorder, once; later calls give the same handle. Metrics made before are lost, so this
/// comes first.
///
/// # Errors
/// When another recorder was installed by somebody else.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    static HANDLE: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    // Held to the end: of two nodes that start at once one installs it.
    let mut installed = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_per_request".into()), COUNTS)?
        .install_recorder()?;
    *installed = Some(handle.clone());
    Ok(handle)
}

/// The metrics of one route. Handles are made once: looking them up by label at each request would cost more than the
/// request.
pub struct RouteMeter {
    seconds: Histogram,
    statements: Histogram,
    leaves: Histogram,
    cached: Counter,
    /// By hundreds of the status.
    by_class: [Counter; 6],
}

impl RouteMeter {
    pub fn new(method: &Method, path: &str) -> Self {
        let labels = [("method", method.to_string()), ("route", path.to_owned())];
        let by_class = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
            counter!("tessera_requests_total", "method" => method.to_string(), "route" => path.to_owned(), "status" => class)
        });
        Self {
            seconds: histogram!("tessera_request_seconds", &labels),
            statements: histogram!("tessera_statements_per_request", &labels),
            leaves: histogram!("tessera_leaves_per_request", &labels),
            cached: counter!("tessera_cached_answers_total", &labels),
            by_class,
        }
    }

    pub fn record(&self, status: u16, total: Duration, meter: &Meter) {
        self.seconds.record(total.as_secs_f64());
        self.statements.record(f64::from(meter.statements));
        self.leaves.record(f64::from(meter.leaves));
        if meter.cached {
            self.cached.increment(1);
        }
        if let Some(counter) = self.by_class.get(usize::from(status / 100)) {
            counter.increment(1);
        }
    }
}

/// The value of `Server-Timing`: `total;dur=1.2, db;dur=0.8;desc="9 statements, 7 leaves", queue;dur=0.1`.
pub fn server_timing(total: Duration, meter: &Meter) -> String {
    let mut text = String::with_capacity(80);
    let total_us = u64::try_from(total.as_micros()).unwrap_or(u64::MAX);
    let written = write!(text, "total;dur={}", Ms(total_us)).and_then(|()| {
        if meter.statements > 0 {
            let (statements, leaves) = (meter.statements, meter.leaves);
            write!(text, ", db;dur={};desc=\"{statements} statements, {leaves} leaves\"", Ms(meter.db_us.into()))?;
        }
        if meter.queue_us > 0 {
            write!(text, ", queue;dur={}", Ms(meter.queue_us.into()))?;
        }
        if meter.cached {
            text.write_str(", cache;desc=hit")?;
        }
        Ok(())
    });
    debug_assert!(written.is_ok(), "writing to a String does not fail");
    text
}

/// Microseconds, told as milliseconds with two decimals. (Floating point is ten times as slow to print.)
struct Ms(u64);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = self.0.saturating_add(5) / 10;
        write!(f, "{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_tells_what_there_was() {
        let total = Duration::from_micros(1_234);
        assert_eq!(server_timing(total, &Meter::default()), "total;dur=1.23");
        assert_eq!(server_timing(total, &Meter::CACHED), "total;dur=1.23, cache;desc=hit");
        let meter = Meter { statements: 9, leaves: 7, db_us: 800, queue_us: 50, cached: false };
        assert_eq!(
            server_timing(total, &meter),
            "total;dur=1.23, db;dur=0.80;desc=\"9 statements, 7 leaves\", queue;dur=0.05"
        );
    }
}
