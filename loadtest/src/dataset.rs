//! What a built dataset holds, computed from its seed.
//!
//! Nothing of a dataset is listed anywhere: member 17,000,000 and coupon 99,999,999 are functions of the seed, each in well
//! under a microsecond. [`Shape`] is all that has to be known; `loadtest build` keeps it in the database and writes it to
//! `dataset.json`, with API keys for whoever is to ask.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use loadtest::dataset::{Dataset, Manifest};
//! use tessera::secret::{SecretFile, Secrets};
//! # use rand::SeedableRng as _;
//!
//! let manifest = Manifest::load("dataset.json".as_ref())?;
//! let dataset = Dataset::new(&manifest.shape);
//! let secrets = SecretFile::load(manifest.secrets_file.as_ref().unwrap())?;
//! let codes = Secrets::new(&secrets, rand::rngs::StdRng::from_os_rng()).codes();
//!
//! let member = dataset.member(42);                      // of 0..shape.members
//! println!("{} has the phone {}", member.member_id, member.phone());
//! for n in dataset.coupons_of(42) {                     // of 0..shape.coupons
//!     let coupon = dataset.coupon(n);
//!     println!("{} {:?}", dataset.text(&codes, &coupon), coupon.fate);
//! }
//! // A coupon that a till may redeem now: tickets count up, and none gives a coupon of another.
//! let now = tessera::clock::Clock::system().now();
//! let usable = (0..).find_map(|ticket| dataset.usable(ticket, now)).unwrap();
//! # let _ = usable; Ok(())
//! # }
//! ```
//!
//! # What it looks like
//!
//! - Members come in blocks of [`BLOCK`]. Within each, a third holds nothing and the others 1 to [`HELD_MAX`] coupons, few
//!   of them many; so a coupon's holder and a holder's coupons are both arithmetic. Who holds coupons registered before the
//!   first month of them; who does not, after.
//! - Coupons are numbered in the order of their issue, over 36 months up to yesterday, from a chain that grows. Rules and
//!   stores follow Zipf's law. Six of seven coupons have a holder, and one in ten has a code of an older system besides its own.
//! - One rule in ten has an end far ahead, so that coupons of all months are still good; the others end 7 to 90 days after
//!   the issue.

pub mod chance;
mod coupon;
mod people;
mod time;

use std::{collections::BTreeMap, path::Path, path::PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tessera::{clock::Zone, id::Day};

use chance::{Shuffle, Weighted, draw};
pub use coupon::{Coupon, Fate, LEGACY_ALPHABET, LEGACY_LENGTH, LEGACY_SHAPE, Rule, USE_DAYS_MAX, UseOf};
pub use people::{External, Member, store_id};
use time::{Days, months};
pub use time::{Month, instant};

/// Members that share out a fixed number of coupons among themselves.
pub const BLOCK: u64 = 1_000;
/// The most coupons that one member holds.
pub const HELD_MAX: u32 = 200;
/// Of all coupons, in hundredths: those that have a holder.
const HELD_PERCENT: u64 = 86;
/// A change of what a seed means gets another number: older datasets are not understood then.
const FORMAT: u32 = 1;

/// What a dataset is a function of, besides the secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub format: u32,
    pub seed: u64,
    pub members: u64,
    pub coupons: u64,
    pub rules: u32,
    pub stores: u32,
    /// Up to when things have happened.
    pub at: DateTime<Utc>,
    /// The chain's business zone.
    pub zone: String,
    /// The first of the numbers that codes are minted from; each coupon has one.
    pub first_serial: i64,
    /// The first of the ledger's numbers; each coupon has two, for a use and its undo.
    pub first_redemption: i64,
    /// The first of the numbers of logs and events; each member has one, and after them each coupon.
    pub first_log: i64,
}

/// `dataset.json`. Holds API keys: it is nobody else's to read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub shape: Shape,
    /// Where the secrets are that the rows were made with.
    pub secrets_file: Option<PathBuf>,
    pub keys: Keys,
    /// Rows by table.
    pub rows: BTreeMap<String, u64>,
    /// How fast it was built, if that was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<BuildRate>,
}

/// Rows a second of a build, and of the same rows by raw `COPY … FREEZE` and the keys' build alone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct BuildRate {
    pub built: f64,
    pub raw: f64,
}

/// API keys by role; those of tills by store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Keys {
    pub admin: String,
    pub marketing: String,
    pub ops: String,
    pub pos: BTreeMap<String, String>,
}

/// A dataset that can be asked. A few hundred kilobytes, whatever its size.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub shape: Shape,
    pub rules: Vec<Rule>,
    pub months: Vec<Month>,
    days: Days,
    rule_of: Weighted,
    store_of: Weighted,
    /// From a coupon to its slot; those below `held` belong to members.
    slots: Shuffle,
    held: u64,
    block: u64,
    /// Of a block: where the slots of each member begin, and whose each slot is.
    starts: Vec<u32>,
    owners: Vec<u16>,
    phones: Shuffle,
    legacy: Shuffle,
    tickets: Shuffle,
    /// Before the first month of coupons and since 2020: when their holders registered.
    before: (i64, i64),
    until: i64,
}

impl Shape {
    /// A shape with what is usual for its size; numbers are leased by the builder.
    pub fn new(seed: u64, members: u64, coupons: u64, at: DateTime<Utc>, zone: Zone) -> Self {
        Self {
            format: FORMAT,
            seed,
            members,
            coupons,
            rules: (coupons / 20_000).clamp(40, 2_000) as u32,
            stores: (coupons / 2_000).clamp(20, 16_000) as u32,
            at,
            zone: zone.name().to_owned(),
            first_serial: 1,
            first_redemption: 1,
            first_log: 1,
        }
    }

    /// # Errors
    /// A sentence about what cannot be.
    pub fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("it has format {} and this program knows {FORMAT}", self.format));
        }
        Zone::parse(&self.zone).map_err(|error| error.to_string())?;
        for (what, count, most) in [
            ("members", self.members, 2_000_000_000),
            ("coupons", self.coupons, 1 << 40),
            ("rules", self.rules.into(), 60_000),
            ("stores", self.stores.into(), 90_000),
        ] {
            if !(1..=most).contains(&count) {
                return Err(format!("there must be 1 to {most} {what}, not {count}"));
            }
        }
        Ok(())
    }

    pub fn zone(&self) -> Zone {
        Zone::parse(&self.zone).expect("a shape is checked before it is used")
    }

    /// The business day of [`Self::at`].
    pub fn today(&self) -> Day {
        self.zone().day_of(self.at)
    }
}

impl Manifest {
    /// # Errors
    /// When the file cannot be read, or is none.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let manifest: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is no dataset.json", path.display()))?;
        manifest.shape.check().map_err(|why| anyhow::anyhow!("{}: {why}", path.display()))?;
        Ok(manifest)
    }

    /// Writes the file, for its owner alone to read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let beside = path.with_extension("json.new");
        let _ = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        Ok(std::fs::rename(&beside, path)?)
    }
}

impl Dataset {
    /// # Panics
    /// When the shape fails its check.
    pub fn new(shape: &Shape) -> Self {
        if let Err(why) = shape.check() {
            panic!("{why}");
        }
        let (seed, today) = (shape.seed, shape.today());
        let months = months(shape.coupons, today);
        let days = Days::new(shape.zone(), months[0].first_day.plus(-1), today);
        let until = shape.at.timestamp_micros();
        let rules = coupon::rules(shape, &days, months[0].first_day);
        let block = shape.members.min(BLOCK);
        let blocks = shape.members / block;
        let per_block = (shape.coupons * HELD_PERCENT / 100 / blocks).min(block * 2 / 3 * u64::from(HELD_MAX));
        let counts = shares(seed, block as usize, per_block);
        let mut starts = vec![0];
        let mut owners = Vec::new();
        for (at, count) in counts.iter().enumerate() {
            starts.push(starts[at] + count);
            owners.extend(std::iter::repeat_n(at as u16, *count as usize));
        }
        let before = (tessera::id::EPOCH_MS * 1_000, days.start_of(months[0].first_day.number()));
        Self {
            rule_of: Weighted::zipf(rules.len(), 0.9),
            store_of: Weighted::zipf(shape.stores as usize, 0.8),
            slots: Shuffle::new(seed, stream::SLOT, shape.coupons),
            held: owners.len() as u64 * blocks,
            phones: Shuffle::new(seed, stream::PHONE, people::PHONES),
            legacy: Shuffle::new(seed, stream::LEGACY, coupon::LEGACY_CODES),
            tickets: Shuffle::new(seed, stream::TICKET, shape.coupons),
            shape: shape.clone(),
            rules,
            months,
            days,
            block,
            starts,
            owners,
            before,
            until,
        }
    }

    fn draw(&self, stream: u64, n: u64) -> u64 {
        draw(self.shape.seed, stream, n)
    }

    /// The numbers of the coupons that a member holds, in no order.
    pub fn coupons_of(&self, member: u64) -> impl Iterator<Item = u64> + '_ {
        let (block, at) = (member / self.block, self.place_of(member));
        let whole = member < self.shape.members / self.block * self.block;
        let first = block * self.owners.len() as u64;
        let slots = if whole { self.starts[at]..self.starts[at + 1] } else { 0..0 };
        slots.map(move |slot| self.slots.back(first + u64::from(slot)))
    }

    /// How many those are.
    pub fn held_by(&self, member: u64) -> u32 {
        let at = self.place_of(member);
        let whole = member < self.shape.members / self.block * self.block;
        if whole { self.starts[at + 1] - self.starts[at] } else { 0 }
    }

    /// All coupons that have a holder.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Who holds a coupon, by number.
    #[inline]
    pub fn holder_of(&self, n: u64) -> Option<u64> {
        let slot = self.slots.of(n);
        if slot >= self.held {
            return None;
        }
        let per_block = self.owners.len() as u64;
        let (block, within) = (slot / per_block, slot % per_block);
        let place = u64::from(self.owners[within as usize]);
        Some(block * self.block + (place + self.turn(block)) % self.block)
    }

    /// Where in its block's shares a member stands; each block begins elsewhere.
    #[inline]
    fn place_of(&self, member: u64) -> usize {
        let (block, at) = (member / self.block, member % self.block);
        ((at + self.block - self.turn(block)) % self.block) as usize
    }

    #[inline]
    fn turn(&self, block: u64) -> u64 {
        chance::below(self.draw(stream::TURN, block), self.block)
    }
}

/// Names of the streams of chance. A number is never used again for something else.
pub(crate) mod stream {
    pub const SLOT: u64 = 1;
    pub const TURN: u64 = 2;
    pub const SHARE: u64 = 3;
    pub const PHONE: u64 = 4;
    pub const LEGACY: u64 = 5;
    pub const TICKET: u64 = 6;
    pub const RULE: u64 = 7;
    pub const RULES: u64 = 8;
    pub const FATE: u64 = 9;
    pub const DELAY: u64 = 10;
    pub const SALE: u64 = 11;
    pub const STORE: u64 = 12;
    pub const ISSUE: u64 = 13;
    pub const MEMBER: u64 = 14;
    pub const NAME: u64 = 15;
    pub const HOME: u64 = 16;
    pub const REGISTERED: u64 = 17;
    pub const NONCE: u64 = 18;
}

/// Shares so many coupons out among the members of a block: a third has none, the others by Zipf's law and at most
/// [`HELD_MAX`] each. The order is by chance.
fn shares(seed: u64, members: usize, coupons: u64) -> Vec<u32> {
    let holders = (members - members / 3).max(1);
    let weights: Vec<f64> = (1..=holders).map(|rank| (rank as f64).powf(-0.7)).collect();
    let all: f64 = weights.iter().sum();
    let mut counts: Vec<u32> =
        weights.iter().map(|weight| ((coupons as f64 * weight / all) as u32).min(HELD_MAX)).collect();
    let mut left = coupons - counts.iter().map(|count| u64::from(*count)).sum::<u64>();
    // What the ceiling and the fractions left, one each to those who have least first.
    while left > 0 && counts.iter().any(|count| *count < HELD_MAX) {
        for count in counts.iter_mut().rev().filter(|count| **count < HELD_MAX) {
            if left > 0 {
                *count += 1;
                left -= 1;
            }
        }
    }
    let order = Shuffle::new(seed, stream::SHARE, members as u64);
    (0..members as u64).map(|at| counts.get(order.of(at) as usize).copied().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(members: u64, coupons: u64) -> Dataset {
        let at = "2026-11-22T07:00:00Z".parse().unwrap();
        Dataset::new(&Shape::new(1, members, coupons, at, Zone::DEFAULT))
    }

    #[test]
    fn holders_and_their_coupons_name_each_other() {
        for (members, coupons) in [(1, 1), (1, 500), (7, 100), (2_500, 12_000), (3_000, 100), (1_000, 300_000)] {
            let dataset = dataset(members, coupons);
            let mut held = 0;
            for member in 0..members {
                let mine: Vec<u64> = dataset.coupons_of(member).collect();
                assert_eq!(mine.len(), dataset.held_by(member) as usize);
                assert!(mine.len() <= HELD_MAX as usize);
                held += mine.len() as u64;
                assert!(mine.iter().all(|n| dataset.coupon(*n).holder == Some(member)));
            }
            assert_eq!((0..coupons).filter(|n| dataset.coupon(*n).holder.is_some()).count() as u64, held);
            assert_eq!(held, dataset.held());
        }
    }

    #[test]
    fn members_hold_from_none_to_two_hundred_coupons() {
        let dataset = dataset(2_000, 60_000);
        let counts: Vec<u32> = (0..2_000).map(|member| dataset.held_by(member)).collect();
        assert_eq!(counts.iter().max(), Some(&HELD_MAX));
        let none = counts.iter().filter(|count| **count == 0).count();
        assert!((600..700).contains(&none), "{none}");
    }

    #[test]
    fn ids_phones_and_codes_are_each_somebodys_own() {
        use std::collections::HashSet;
        let dataset = dataset(20_000, 50_000);
        let ids: HashSet<_> = (0..20_000).map(|n| dataset.member(n).member_id).collect();
        let phones: HashSet<_> = (0..20_000).map(|n| dataset.member(n).phone()).collect();
        let codes: HashSet<_> = (0..50_000).map(|n| dataset.legacy_code(n)).collect();
        assert_eq!((ids.len(), phones.len(), codes.len()), (20_000, 20_000, 50_000));
    }

    #[test]
    fn a_phone_is_in_its_normal_form_already() {
        use tessera::member::key::{Kind, normalise};
        let dataset = dataset(5_000, 10);
        for n in 0..5_000 {
            for (kind, text) in dataset.member(n).identifiers() {
                let normal = normalise(kind, &text).unwrap().unwrap();
                assert_eq!(normal.normalised(), text, "{kind}");
            }
            assert!(dataset.member(n).identifiers().iter().any(|(kind, _)| *kind == Kind::Phone));
        }
    }

    #[test]
    fn nothing_happens_before_its_cause_or_after_the_end() {
        let dataset = dataset(5_000, 100_000);
        let at = dataset.shape.at;
        let mut uses = 0;
        for n in 0..100_000 {
            let coupon = dataset.coupon(n);
            assert!(coupon.issued_at < at && coupon.valid_until > coupon.issued_at);
            assert_eq!(coupon.day, dataset.shape.zone().day_of(coupon.issued_at));
            if let Some(holder) = coupon.holder {
                assert!(dataset.member(holder).created_at < coupon.issued_at);
            }
            if let Fate::Redeemed(used) | Fate::Reversed(used, _) = &coupon.fate {
                uses += 1;
                assert!(used.at >= coupon.issued_at && used.at < at && used.at < coupon.valid_until);
                assert_eq!(used.day, dataset.shape.zone().day_of(used.at));
            }
        }
        assert!((10_000..25_000).contains(&uses), "{uses}");
    }

    #[test]
    fn tickets_give_usable_coupons_and_none_twice() {
        let dataset = dataset(5_000, 50_000);
        let at = dataset.shape.at;
        let found: Vec<u64> = (0..50_000).filter_map(|ticket| Some(dataset.usable(ticket, at)?.n)).collect();
        let distinct: std::collections::HashSet<_> = found.iter().collect();
        assert_eq!(distinct.len(), found.len());
        assert!(found.len() > 3_000, "{}", found.len());
        assert!(found.iter().all(|n| dataset.coupon(*n).is_usable(at)));
    }
}
