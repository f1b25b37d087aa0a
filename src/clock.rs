//! What time it is, and which business day that is.
//!
//! Instants are UTC and cut to microseconds, which is all that PostgreSQL keeps: an instant that was stored and read
//! again equals the one in memory. The business day of an instant depends on the chain's (or a store's) zone.
//!
//! `now` is what the domain sees; tests fix it or shift it by an offset. `raw_now` is what this machine's clock says,
//! never fixed or shifted: the id minter and the comparison with the database's clock use it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveTime, SubsecRound, TimeDelta, TimeZone, Utc};
use thiserror::Error;

use crate::id::Day;

/// The process's clock. Clones share the offset.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fixed: Option<DateTime<Utc>>,
    offset_ms: AtomicI64,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(Arc::new(Inner { fixed: None, offset_ms: AtomicI64::new(0) }))
    }

    /// A clock that stands still until its offset is changed.
    pub fn fixed(at: DateTime<Utc>) -> Self {
        Self(Arc::new(Inner { fixed: Some(at), offset_ms: AtomicI64::new(0) }))
    }

    /// The instant that the domain decides by, in whole microseconds.
    pub fn now(&self) -> DateTime<Utc> {
        let offset = TimeDelta::milliseconds(self.0.offset_ms.load(Ordering::Relaxed));
        let base = self.0.fixed.unwrap_or_else(machine_now);
        base.checked_add_signed(offset).unwrap_or(base).trunc_subsecs(6)
    }

    /// What this machine's clock says, in whole microseconds, whatever was fixed or shifted.
    pub fn raw_now(&self) -> DateTime<Utc> {
        machine_now().trunc_subsecs(6)
    }

    /// Shifts `now` against its base; replaces an earlier offset.
    pub fn set_offset_ms(&self, offset_ms: i64) {
        self.0.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// The offset in force.
    pub fn offset_ms(&self) -> i64 {
        self.0.offset_ms.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that asks the machine for the time")]
fn machine_now() -> DateTime<Utc> {
    Utc::now()
}

/// The IANA zone of a chain or a store, by which instants fall into business days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone(chrono_tz::Tz);

/// The text does not name a zone.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not the name of an IANA time zone such as Asia/Shanghai")]
pub struct BadZone(String);

impl Zone {
    pub fn new(zone: chrono_tz::Tz) -> Self {
        Self(zone)
    }

    /// The zone a chain gets unless it chooses one.
    pub const DEFAULT: Zone = Zone(chrono_tz::Asia::Shanghai);

    /// Reads an IANA name.
    ///
    /// # Errors
    /// [`BadZone`] when there is no zone of this name; names are compared exactly.
    pub fn parse(name: &str) -> Result<Self, BadZone> {
        name.parse().map(Self).map_err(|_| BadZone(name.to_owned()))
    }

    /// The IANA name.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The calendar day that the instant falls on here.
    pub fn day_of(self, at: DateTime<Utc>) -> Day {
        Day::from_date(at.with_timezone(&self.0).date_naive())
    }

    /// The first instant of the day here. Where the clocks are put forward over midnight that is later than 00:00,
    /// and where they are put back over it, it is the earlier of the two.
    pub fn start_of(self, day: Day) -> DateTime<Utc> {
        self.start_of_date(day.to_date())
    }

    fn start_of_date(self, date: NaiveDate) -> DateTime<Utc> {
        let midnight = date.and_time(NaiveTime::MIN);
        // Gaps are whole quarter hours and, but for islands that skipped a day across the date line, under 24 hours.
        for quarter in 0..=4 * 26 {
            match self.0.from_local_datetime(&(midnight + TimeDelta::minutes(15 * quarter))) {
                LocalResult::Single(at) => return at.to_utc(),
                LocalResult::Ambiguous(first, _) => return first.to_utc(),
                LocalResult::None => {}
            }
        }
        // No zone in the database skips more than a day; if one ever does, the day that never was starts with the next.
        date.checked_add_days(Days::new(1)).map_or_else(|| midnight.and_utc(), |next| self.start_of_date(next))
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = BadZone;

    fn from_str(name: &str) -> Result<Self, BadZone> {
        Self::parse(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn day(text: &str) -> Day {
        text.parse().unwrap()
    }

    #[test]
    fn a_fixed_clock_moves_only_by_its_offset_and_clones_share_it() {
        let clock = Clock::fixed(at("2026-11-22T01:02:03.123456789Z"));
        let clone = clock.clone();
        assert_eq!(clock.now(), at("2026-11-22T01:02:03.123456Z"));
        clone.set_offset_ms(-1_500);
        assert_eq!(clock.now(), at("2026-11-22T01:02:01.623456Z"));
        clone.set_offset_ms(0);
        assert_eq!(clock.now(), at("2026-11-22T01:02:03.123456Z"));
    }

    #[test]
    fn the_raw_clock_is_never_shifted() {
        let clock = Clock::system();
        clock.set_offset_ms(3_600_000);
        let apart = clock.now() - clock.raw_now();
        assert!((apart.num_seconds() - 3_600).abs() <= 1, "{apart}");
        assert_eq!(clock.raw_now().timestamp_subsec_nanos() % 1_000, 0);
    }

    #[test]
    fn a_business_day_begins_at_midnight_of_the_zone() {
        let zone = Zone::parse("Asia/Shanghai").unwrap();
        assert_eq!(zone.start_of(day("2026-11-22")), at("2026-11-21T16:00:00Z"));
        assert_eq!(zone.day_of(at("2026-11-21T15:59:59.999999Z")), day("2026-11-21"));
        assert_eq!(zone.day_of(at("2026-11-21T16:00:00Z")), day("2026-11-22"));
    }

    #[test]
    fn every_day_starts_on_itself_where_clocks_are_put_forward_and_back() {
        for name in ["Asia/Shanghai", "America/Sao_Paulo", "Asia/Beirut", "America/Havana", "Europe/Berlin", "UTC"] {
            let zone = Zone::parse(name).unwrap();
            for n in (0..12_000).step_by(1) {
                let day = Day::from_number(n).unwrap();
                let start = zone.start_of(day);
                assert_eq!(zone.day_of(start), day, "{name} {day}");
                let before = zone.day_of(start - TimeDelta::microseconds(1));
                assert_eq!(before.number(), n - 1, "{name} {day}");
            }
        }
    }

    #[test]
    fn a_day_that_a_zone_skipped_starts_with_the_next() {
        let apia = Zone::parse("Pacific/Apia").unwrap();
        assert_eq!(apia.start_of(day("2011-12-30")), apia.start_of(day("2011-12-31")));
    }

    #[test]
    fn an_unknown_zone_is_refused_by_name() {
        assert_eq!(
            Zone::parse("Asia/Peking").unwrap_err().to_string(),
            "\"Asia/Peking\" is not the name of an IANA time zone such as Asia/Shanghai"
        );
        assert_eq!(Zone::default().to_string(), "Asia/Shanghai");
    }
}
