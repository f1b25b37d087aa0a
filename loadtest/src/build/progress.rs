//! How far a build has come: a bar on a terminal, else a line now and then.

use std::{
    io::IsTerminal as _,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

const LINE_EVERY: Duration = Duration::from_secs(10);

pub struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    started: Instant,
    before: u64,
    total: u64,
    rows: AtomicU64,
    /// Seconds after the start at which a line was printed last.
    told: AtomicU64,
}

impl Progress {
    /// Of `total` rows, `before` were there already.
    pub fn new(total: u64, before: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr_with_hz(4) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let style = ProgressStyle::with_template(
            "{bar:40} {percent:>3} % {human_pos} of {human_len} rows, {per_sec}, {eta} left",
        )
        .expect("the template is a constant");
        bar.set_style(style);
        bar.set_position(before);
        bar.reset_eta();
        Self {
            bar,
            is_terminal,
            started: Instant::now(),
            before,
            total,
            rows: AtomicU64::new(before),
            told: AtomicU64::new(0),
        }
    }

    pub fn add(&self, rows: u64) {
        let done = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        self.bar.set_position(done.min(self.total));
        let elapsed = self.started.elapsed();
        let (now, told) = (elapsed.as_secs(), self.told.load(Ordering::Relaxed));
        let due = !self.is_terminal && now >= told + LINE_EVERY.as_secs();
        if due && self.told.compare_exchange(told, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let rate = (done - self.before) as f64 / elapsed.as_secs_f64();
            let left = self.total.saturating_sub(done) as f64 / rate.max(1.0);
            eprintln!(
                "{} of {} rows, {} rows/s, {} left",
                HumanCount(done),
                HumanCount(self.total),
                HumanCount(rate as u64),
                HumanDuration(Duration::from_secs_f64(left))
            );
        }
    }

    /// Rows that are there, with those of before.
    pub fn done(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
