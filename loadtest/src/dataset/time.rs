//! When things happened: days by number with the instants at which they begin in the chain's zone, and the months over
//! which coupons were issued. Instants are microseconds since 1970 here, which is how rows have them.

use chrono::{DateTime, Utc};
use tessera::{clock::Zone, id::Day};

pub const SECOND: i64 = 1_000_000;
pub const HOUR: i64 = 3_600 * SECOND;
pub const DAY: i64 = 24 * HOUR;
/// Issue months, today's with what has passed of it.
pub const MONTHS: i32 = 36;
/// Shops are open from here on, for so long.
const OPENS: i64 = 8 * HOUR;
const OPEN_FOR: i64 = 14 * HOUR;
/// Days after today that a coupon may still be good for.
const DAYS_AHEAD: i32 = 800;

/// The first instants of days.
#[derive(Debug, Clone)]
pub struct Days {
    first: i32,
    starts: Vec<i64>,
}

impl Days {
    pub fn new(zone: Zone, first: Day, today: Day) -> Self {
        let last = today.number() + DAYS_AHEAD;
        let start = |number| zone.start_of(Day::from_number(number).expect("a day of this century")).timestamp_micros();
        Self { first: first.number(), starts: (first.number()..=last).map(start).collect() }
    }

    /// The first instant of a day.
    #[inline]
    pub fn start_of(&self, day: i32) -> i64 {
        self.starts[((day - self.first).max(0) as usize).min(self.starts.len() - 1)]
    }

    /// The day that an instant falls on.
    #[inline]
    pub fn day_of(&self, at: i64) -> i32 {
        let guess = ((at - self.starts[0]) / DAY).clamp(0, self.starts.len() as i64 - 1) as usize;
        let mut day = guess;
        while day + 1 < self.starts.len() && self.starts[day + 1] <= at {
            day += 1;
        }
        while day > 0 && self.starts[day] > at {
            day -= 1;
        }
        self.first + day as i32
    }
}

/// A month with the coupons that were issued in it, which follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Month {
    pub first_day: Day,
    /// Days of it on which coupons were issued.
    pub days: i32,
    pub coupons: std::ops::Range<u64>,
}

/// Shares coupons out over the months up to today: a chain that grows, with more in June and November.
pub fn months(coupons: u64, today: Day) -> Vec<Month> {
    use chrono::Datelike as _;
    let mut first = today.first_of_month();
    let mut found = vec![(first, today.since(first))];
    for _ in 1..MONTHS {
        let next = first;
        first = next.plus(-1).first_of_month();
        found.push((first, next.since(first)));
    }
    found.reverse();
    let weight = |at: usize, (first, days): &(Day, i32)| {
        let season = if matches!(first.to_date().month(), 6 | 11) { 1.4 } else { 1.0 };
        1.015_f64.powi(at as i32) * season * f64::from(*days)
    };
    let weights: Vec<f64> = found.iter().enumerate().map(|(at, month)| weight(at, month)).collect();
    let all: f64 = weights.iter().sum();
    let (mut sum, mut start) = (0.0, 0);
    let last = weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0);
    let mut months = Vec::with_capacity(found.len());
    for (at, (first_day, days)) in found.into_iter().enumerate() {
        sum += weights[at];
        let end = if at >= last { coupons } else { (coupons as f64 * (sum / all)) as u64 };
        months.push(Month { first_day, days, coupons: start..end });
        start = end;
    }
    months
}

impl Month {
    /// The day on which the coupon was issued, and how far into the day.
    #[inline]
    pub fn issued(&self, n: u64) -> (Day, i64) {
        let count = self.coupons.end - self.coupons.start;
        let scaled = u128::from(n - self.coupons.start) * (self.days.max(1) as u128);
        let day = (scaled / u128::from(count)) as i32;
        let within = scaled % u128::from(count);
        let after_opening = (within * OPEN_FOR as u128 / u128::from(count)) as i64;
        (self.first_day.plus(day), OPENS + after_opening)
    }
}

/// An instant as the library has it.
pub fn instant(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).expect("an instant of this century")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_share_all_coupons_and_end_before_today() {
        for today in ["2026-11-22", "2026-11-01", "2026-03-31"] {
            let today: Day = today.parse().unwrap();
            let months = months(1_000_003, today);
            assert_eq!((months.len(), months[0].coupons.start, months[35].coupons.end), (36, 0, 1_000_003));
            assert!(months.windows(2).all(|pair| pair[0].coupons.end == pair[1].coupons.start));
            let mut before = (months[0].first_day.plus(-1), 0);
            for month in months.iter().filter(|month| !month.coupons.is_empty()) {
                for n in [month.coupons.start, month.coupons.end - 1] {
                    let issued = month.issued(n);
                    assert!(issued >= before && issued.0 < today && issued.0.first_of_month() == month.first_day);
                    before = issued;
                }
            }
        }
    }

    #[test]
    fn an_instant_falls_on_the_day_that_the_zone_says() {
        let zone = Zone::parse("Europe/Berlin").unwrap();
        let (first, today): (Day, Day) = ("2024-01-01".parse().unwrap(), "2026-11-22".parse().unwrap());
        let days = Days::new(zone, first, today);
        for step in 0..30_000 {
            let at = days.start_of(first.number()) + step * 55 * 60 * SECOND;
            assert_eq!(days.day_of(at), zone.day_of(instant(at)).number());
        }
    }
}
