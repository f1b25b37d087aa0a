//! The router: from table and key to leaf, by arithmetic alone.
//!
//! Ranges follow from the day that leads the key. Hashes are PostgreSQL's own (`hashint8extended`,
//! `uuid_hash_extended` under the partition seed, `hash_combine64`, modulo; src/common/hashfn.c and
//! src/backend/partitioning/partbounds.c), for one key column; tests hold them against `satisfies_hash_partition`.
//! Which of the two key types a hash plan has is not written in the plan: the caller knows its column.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use chrono::{Datelike, NaiveDate, TimeDelta};
use uuid::Uuid;

use super::plan::{Encoding, Plan, Plans, Split, Step};

const HASH_PARTITION_SEED: u64 = 0x7A5B_2236_7996_DCFD;
/// The bits of a `day41` key below its day.
const NUMBER_BITS: u32 = 41;

/// One partition of a table. Leaves sort in the order in which a transaction locks them.
///
/// `no` is the remainder of a hash, the month since 2000-01 or the day since 2000-01-01.
#[derive(Clone, Copy)]
pub struct Leaf {
    pub plan: &'static Plan,
    pub no: i32,
}

impl Plan {
    /// The leaf of a bigint key.
    ///
    /// # Panics
    /// When the table is split by date: a mistake of the programmer.
    pub fn leaf_i64(&'static self, key: i64) -> Leaf {
        match &self.split {
            Split::Hash { modulus } => self.leaf_hash(hash_i64(key), *modulus),
            Split::Range(range) if range.encoding == Encoding::Day41 => self.leaf_day(range.step, key >> NUMBER_BITS),
            Split::Range(_) => panic!("{} is split by a date, not by a number", self.table),
        }
    }

    /// The leaf of a uuid key.
    ///
    /// # Panics
    /// When the table is split by range: a mistake of the programmer.
    pub fn leaf_uuid(&'static self, key: Uuid) -> Leaf {
        match &self.split {
            Split::Hash { modulus } => self.leaf_hash(hash_bytes_extended(key.as_bytes()), *modulus),
            Split::Range(_) => panic!("{} is split by range, not by uuid", self.table),
        }
    }

    /// The leaf of a date: of the key itself, or of the day that leads it.
    ///
    /// # Panics
    /// When the table is split by hash: a mistake of the programmer.
    pub fn leaf_date(&'static self, day: NaiveDate) -> Leaf {
        match &self.split {
            Split::Range(range) => self.leaf_day(range.step, day_number(day)),
            Split::Hash { .. } => panic!("{} is split by hash, not by date", self.table),
        }
    }

    /// All leaves of a hash plan, in order; none of a range plan, which has no end.
    pub fn hash_leaves(&'static self) -> impl Iterator<Item = Leaf> {
        let modulus = self.modulus().unwrap_or(0);
        (0..modulus).map(move |no| Leaf { plan: self, no: no as i32 })
    }

    fn leaf_hash(&'static self, hash: u64, modulus: u32) -> Leaf {
        // PostgreSQL combines the hashes of all key columns, beginning with 0; with one column that is an addition.
        let row = hash.wrapping_add(0x49A0_F4DD_15E5_A8E3);
        Leaf { plan: self, no: (row % u64::from(modulus)) as i32 }
    }

    fn leaf_day(&'static self, step: Step, day: i64) -> Leaf {
        let no = match step {
            Step::Day => day as i32, // 22 bits of a day41 key; chrono's dates are fewer than 2^31 days
            Step::Month => month_number(date_of(day)),
        };
        Leaf { plan: self, no }
    }
}

impl Plans {
    /// The leaf of that name, if it is one of these plans' names, whether or not it exists.
    pub fn leaf_named(&self, name: &str) -> Option<Leaf> {
        // `coupon_m2026_11` could be read under `coupon` only, but `a_b` and `a` may both be tables: try each prefix.
        let cuts = name.match_indices('_').map(|(at, _)| at);
        cuts.filter_map(|at| self.get(&name[..at])?.leaf_of_name(name)).next()
    }
}

impl Plan {
    /// The leaf of this table that has that name.
    pub fn leaf_of_name(&'static self, name: &str) -> Option<Leaf> {
        let suffix = name.strip_prefix(self.table.as_str())?.strip_prefix('_')?;
        let (letter, digits) = suffix.split_at_checked(1)?;
        let leaf = match (&self.split, letter) {
            (Split::Hash { .. }, "h") => Leaf { plan: self, no: digits.parse().ok()? },
            (Split::Range(range), "m") if range.step == Step::Month => {
                let (year, month) = digits.split_once('_')?;
                self.leaf_date(NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, 1)?)
            }
            (Split::Range(range), "d") if range.step == Step::Day => {
                self.leaf_date(NaiveDate::parse_from_str(digits, "%Y_%m_%d").ok()?)
            }
            _ => return None,
        };
        (leaf.to_string() == name).then_some(leaf)
    }
}

impl Leaf {
    /// The leaf `steps` after this one, or before it.
    pub fn step(self, steps: i32) -> Self {
        Self { plan: self.plan, no: self.no + steps }
    }

    /// The first day of a range leaf.
    pub fn first_day(self) -> Option<NaiveDate> {
        Some(match self.plan.range()?.step {
            Step::Day => date_of(self.no.into()),
            Step::Month => {
                let month = self.no.rem_euclid(12) as u32 + 1;
                NaiveDate::from_ymd_opt(2000 + self.no.div_euclid(12), month, 1).unwrap_or(NaiveDate::MAX)
            }
        })
    }

    /// The first day after a range leaf.
    pub fn end_day(self) -> Option<NaiveDate> {
        self.step(1).first_day()
    }

    /// The range's bounds as SQL literals, lower inclusive, upper exclusive.
    pub fn bounds(self) -> Option<(String, String)> {
        let literal = |day: NaiveDate| match self.plan.range().map(|range| range.encoding) {
            Some(Encoding::Day41) => (day_number(day) << NUMBER_BITS).to_string(),
            _ => format!("'{day}'"),
        };
        Some((literal(self.first_day()?), literal(self.end_day()?)))
    }

    /// What stands after `attach partition …`.
    pub fn for_values(self) -> String {
        match (self.plan.modulus(), self.bounds()) {
            (None, Some((from, to))) => format!("for values from ({from}) to ({to})"),
            (modulus, _) => {
                format!("for values with (modulus {}, remainder {})", modulus.unwrap_or(1), self.no)
            }
        }
    }

    /// The name under which a leaf is kept, or waits to be dropped, once it is no longer written.
    pub fn retired_name(self) -> String {
        format!("{self}_retired")
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = &self.plan.table;
        let Some(range) = self.plan.range() else {
            let digits = (self.plan.modulus().unwrap_or(1) - 1).checked_ilog10().unwrap_or(0) as usize + 1;
            return write!(f, "{table}_h{:0width$}", self.no, width = digits.max(2));
        };
        let day = self.first_day().unwrap_or(NaiveDate::MAX);
        match range.step {
            Step::Month => write!(f, "{table}_m{:04}_{:02}", day.year(), day.month()),
            Step::Day => write!(f, "{table}_d{:04}_{:02}_{:02}", day.year(), day.month(), day.day()),
        }
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        (self.plan.rank, self.no) == (other.plan.rank, other.no)
    }
}

impl Eq for Leaf {}

impl Hash for Leaf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.plan.rank, self.no).hash(state);
    }
}

impl Ord for Leaf {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.plan.rank, self.no).cmp(&(other.plan.rank, other.no))
    }
}

impl PartialOrd for Leaf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Days since 2000-01-01.
pub(super) fn day_number(day: NaiveDate) -> i64 {
    i64::from(day.num_days_from_ce()) - 730_120
}

fn date_of(day: i64) -> NaiveDate {
    let epoch = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date of the calendar");
    TimeDelta::try_days(day).and_then(|days| epoch.checked_add_signed(days)).unwrap_or(NaiveDate::MAX)
}

fn month_number(day: NaiveDate) -> i32 {
    (day.year() - 2000) * 12 + day.month0() as i32
}

/// `hashint8extended` under the partition seed.
fn hash_i64(key: i64) -> u64 {
    let low = key as u32;
    let high = (key >> 32) as u32;
    // PostgreSQL folds so that a bigint hashes like the int of the same value.
    let folded = low ^ if key >= 0 { high } else { !high };
    let mut state = Jenkins::seeded(4);
    state.a = state.a.wrapping_add(folded);
    state.finish()
}

/// `hash_bytes_extended` of 16 bytes under the partition seed, on the little-endian reading of the words that
/// PostgreSQL has on the machines it is run on here.
fn hash_bytes_extended(bytes: &[u8; 16]) -> u64 {
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut state = Jenkins::seeded(16);
    state.a = state.a.wrapping_add(word(0));
    state.b = state.b.wrapping_add(word(4));
    state.c = state.c.wrapping_add(word(8));
    state.mix();
    state.a = state.a.wrapping_add(word(12));
    state.finish()
}

/// Bob Jenkins' lookup3 in PostgreSQL's variant.
struct Jenkins {
    a: u32,
    b: u32,
    c: u32,
}

impl Jenkins {
    fn seeded(bytes: u32) -> Self {
        let start = 0x9E37_79B9_u32.wrapping_add(bytes).wrapping_add(3_923_095);
        let mut state = Self {
            a: start.wrapping_add((HASH_PARTITION_SEED >> 32) as u32),
            b: start.wrapping_add(HASH_PARTITION_SEED as u32),
            c: start,
        };
        state.mix();
        state
    }

    fn mix(&mut self) {
        fn round(x: &mut u32, y: u32, z: &mut u32, turn: u32) {
            *x = x.wrapping_sub(*z) ^ z.rotate_left(turn);
            *z = z.wrapping_add(y);
        }
        round(&mut self.a, self.b, &mut self.c, 4);
        round(&mut self.b, self.c, &mut self.a, 6);
        round(&mut self.c, self.a, &mut self.b, 8);
        round(&mut self.a, self.b, &mut self.c, 16);
        round(&mut self.b, self.c, &mut self.a, 19);
        round(&mut self.c, self.a, &mut self.b, 4);
    }

    fn finish(mut self) -> u64 {
        let turn = |into: &mut u32, from: u32, bits: u32| *into = (*into ^ from).wrapping_sub(from.rotate_left(bits));
        turn(&mut self.c, self.b, 14);
        turn(&mut self.a, self.c, 11);
        turn(&mut self.b, self.a, 25);
        turn(&mut self.c, self.b, 16);
        turn(&mut self.a, self.c, 4);
        turn(&mut self.b, self.a, 14);
        turn(&mut self.c, self.b, 24);
        u64::from(self.b) << 32 | u64::from(self.c)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::{plan, plans};
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn a_day41_key_names_the_month_of_its_day() {
        let key = |text: &str, number: i64| day_number(day(text)) << 41 | number;
        let leaf = |key| plan("coupon").leaf_i64(key).to_string();
        assert_eq!(leaf(key("2026-11-01", 0)), "coupon_m2026_11");
        assert_eq!(leaf(key("2026-11-30", (1 << 41) - 1)), "coupon_m2026_11");
        assert_eq!(leaf(key("2026-12-01", 0)), "coupon_m2026_12");
        assert_eq!(leaf(0), "coupon_m2000_01");
        assert_eq!(leaf(-1), "coupon_m1999_12");
        assert_eq!(plan("event").leaf_i64(key("2026-11-22", 5)).to_string(), "event_d2026_11_22");
        assert_eq!(plan("request").leaf_date(day("2024-02-29")).to_string(), "request_d2024_02_29");
    }

    #[test]
    fn a_leaf_is_found_by_its_name_and_by_no_other() {
        for name in ["coupon_m2026_11", "event_d2026_11_22", "member_h03", "member_key_h15", "coupon_m1999_12"] {
            assert_eq!(plans().leaf_named(name).map(|leaf| leaf.to_string()).as_deref(), Some(name));
        }
        for name in ["coupon", "coupon_m2026_13", "coupon_d2026_11_22", "coupon_m2026_11_retired", "member_h3", "x_h03"]
        {
            assert_eq!(plans().leaf_named(name), None, "{name}");
        }
    }

    #[test]
    fn bounds_meet_without_a_gap() {
        let mut leaf = plan("coupon").leaf_date(day("1999-11-15"));
        for _ in 0..400 {
            assert_eq!(leaf.bounds().unwrap().1, leaf.step(1).bounds().unwrap().0, "{leaf}");
            assert_eq!(leaf, plan("coupon").leaf_date(leaf.first_day().unwrap()));
            leaf = leaf.step(1);
        }
        assert_eq!(
            plan("request").leaf_date(day("2026-12-31")).for_values(),
            "for values from ('2026-12-31') to ('2027-01-01')"
        );
        assert_eq!(plan("member").leaf_i64(7).for_values().split(',').next(), Some("for values with (modulus 16"));
    }

    #[test]
    fn keys_spread_evenly_over_hash_leaves() {
        let mut counts = [0_u32; 16];
        for key in 0..160_000 {
            counts[plan("member").leaf_i64(key).no as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn leaves_sort_in_the_order_of_locking() {
        let mut leaves =
            [plan("event").leaf_date(day("2026-01-01")), plan("coupon").leaf_i64(0), plan("coupon").leaf_i64(-1)];
        leaves.sort();
        assert_eq!(leaves.map(|leaf| leaf.to_string()), ["coupon_m1999_12", "coupon_m2000_01", "event_d2026_01_01"]);
    }
}
