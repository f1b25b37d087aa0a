//! What an answer cost: plain data that travels back with it.
//!
//! The lane serves a request in tasks of its own, so nothing here is task-local: whoever talks to the database adds up
//! a [`Meter`] and returns it beside the value. `http::meter` turns it into a header and metrics.

use std::ops::AddAssign;
use std::time::Duration;

use crate::db::lane::Cost;

/// The database's part in one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Meter {
    /// Statements that served this request, those shared with its batch included.
    pub statements: u32,
    /// Leaves that those statements addressed.
    pub leaves: u32,
    pub db_us: u32,
    /// Time spent waiting for a batch or a connection.
    pub queue_us: u32,
    /// True when the value came from a cache and no statement was needed.
    pub cached: bool,
}

impl Meter {
    /// An answer out of a cache.
    pub const CACHED: Meter = Meter { statements: 0, leaves: 0, db_us: 0, queue_us: 0, cached: true };

    /// One statement on tables without leaves.
    pub fn office(took: Duration) -> Self {
        Self { statements: 1, db_us: micros(took), ..Self::default() }
    }

    pub fn add_queue(&mut self, waited: Duration) {
        self.queue_us = self.queue_us.saturating_add(micros(waited));
    }
}

impl From<Cost> for Meter {
    fn from(cost: Cost) -> Self {
        Self {
            statements: cost.statements,
            leaves: cost.leaves,
            db_us: micros(cost.database),
            queue_us: micros(cost.queue),
            cached: false,
        }
    }
}

impl AddAssign for Meter {
    fn add_assign(&mut self, other: Self) {
        self.statements = self.statements.saturating_add(other.statements);
        self.leaves = self.leaves.saturating_add(other.leaves);
        self.db_us = self.db_us.saturating_add(other.db_us);
        self.queue_us = self.queue_us.saturating_add(other.queue_us);
        self.cached = self.cached || other.cached;
    }
}

fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_add_up_and_never_wrap() {
        let mut sum = Meter::office(Duration::from_micros(250));
        sum += Meter { statements: 2, leaves: 3, db_us: u32::MAX, queue_us: 7, cached: false };
        sum.add_queue(Duration::from_micros(5));
        assert_eq!(sum, Meter { statements: 3, leaves: 3, db_us: u32::MAX, queue_us: 12, cached: false });
    }
}
