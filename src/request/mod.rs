//! Request numbers: the name by which a caller can repeat a write without a second effect.
//!
//! A number is `(scope, operation, day, key)`. What a caller sends (a till's natural number or an `Idempotency-Key`)
//! is folded into a 128-bit key and the day whose leaf of `request` holds it. This module knows nothing of HTTP and
//! does not talk to the database: the lane claims.
//!
//! Invariants:
//! - The same number sent again within the window meets the first attempt's row, also across midnight of the business
//!   day: a number that carries its day always names that day, and one that does not claims two days, and the two days
//!   of attempts less than 24 hours apart share one.
//! - Numbers of different scopes, operations or kinds never share a key: the hash covers each part with its length.

pub mod http;
pub mod read;
pub mod store;

use std::fmt;

use chrono::{DateTime, Days, NaiveDate, Utc};
use serde::Serialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::clock::Zone;
use crate::problem::{Code, Refusal};

/// Characters of an `Idempotency-Key`.
pub const KEY_CHARS_MAX: usize = 128;
/// Days back from today that a number's day may lie, unless a setting says otherwise.
pub const DAYS_BACK: u32 = 35;
/// Days ahead of today that a number's day may lie, unless a setting says otherwise.
pub const DAYS_AHEAD: u32 = 1;

macro_rules! operations {
    ($($variant:ident $name:literal),+ $(,)?) => {
        /// What a numbered write does. Names are hashed into keys and stand in URLs: they never change.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Operation { $($variant,)+ }

        impl Operation {
            pub const ALL: &[Operation] = &[$(Operation::$variant),+];

            pub const fn name(self) -> &'static str {
                match self { $(Operation::$variant => $name),+ }
            }
        }
    };
}

operations! {
    Register "register",
    Issue "issue",
    Lock "lock",
    Release "release",
    Redeem "redeem",
    Reverse "reverse",
    Void "void",
    Import "import",
    Bind "bind",
    Claim "claim",
}

impl Operation {
    /// Reads a name as it stands in a URL.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|operation| operation.name() == name)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A number as its sender says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A till's natural number. `sequence` counts the register's requests.
    Till { store_id: String, register: String, business_date: NaiveDate, sequence: u32 },
    /// An `Idempotency-Key`.
    Key(String),
}

impl Source {
    /// Reads a number as it stands in a header or a URL: `till:<store>:<register>:<date>:<sequence>`, or any 1 to 128
    /// visible ASCII characters.
    ///
    /// # Errors
    /// `malformed_header` when it is neither.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if let Some(till) = text.strip_prefix("till:") {
            // Not another spelling, which would be another number: `+7` and `007` are 7 to whoever wrote them.
            return parse_till(till).ok_or_else(|| {
                Refusal::new(Code::MalformedHeader)
                    .detail(
                        "a till's number is till:<store>:<register>:<date>:<sequence>, without signs or leading zeros",
                    )
                    .with("header", "Idempotency-Key")
            });
        }
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > KEY_CHARS_MAX || !visible {
            return Err(Refusal::new(Code::MalformedHeader)
                .detail(format!(
                    "a request number is 1 to {KEY_CHARS_MAX} visible ASCII characters, or \
                     till:<store>:<register>:<date>:<sequence>"
                ))
                .with("header", "Idempotency-Key"));
        }
        Ok(Self::Key(text.to_owned()))
    }

    /// The day that the number carries, if it does. UUIDv7 and ULID carry an instant, which falls on a day of the
    /// chain's business zone.
    fn day(&self, zone: Zone) -> Option<NaiveDate> {
        match self {
            Self::Till { business_date, .. } => Some(*business_date),
            Self::Key(text) => embedded_instant(text).map(|at| zone.day_of(at).to_date()),
        }
    }

    /// One spelling for each number: the hex digits of UUIDs (RFC 9562, section 4) and the letters of ULIDs have no case.
    fn canonical(&self) -> String {
        match self {
            Self::Till { store_id, register, business_date, sequence } => {
                format!("till:{store_id}:{register}:{business_date}:{sequence}")
            }
            Self::Key(text) if uuid(text).is_some() || embedded_instant(text).is_some() => text.to_ascii_lowercase(),
            Self::Key(text) => text.clone(),
        }
    }
}

fn parse_till(text: &str) -> Option<Source> {
    let (store_id, rest) = text.split_once(':')?;
    let (rest, sequence) = rest.rsplit_once(':')?;
    let (register, date) = rest.rsplit_once(':')?;
    let till = Source::Till {
        store_id: store_id.to_owned(),
        register: register.to_owned(),
        business_date: date.parse().ok()?,
        sequence: sequence.parse().ok()?,
    };
    // Only the canonical spelling: `+7` and `007` are not two more names of 7.
    let canonical = till.canonical() == format!("till:{text}");
    (canonical && !store_id.is_empty() && !register.is_empty()).then_some(till)
}

/// A UUID in its usual form. Other forms (without hyphens, in braces) may as well be something else.
fn uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|_| text.len() == 36)
}

/// The instant in a UUIDv7 or ULID. Text of that shape whose instant lies outside 2020 to 2100 was not made by a clock
/// and carries none.
fn embedded_instant(text: &str) -> Option<DateTime<Utc>> {
    let ms = match text.len() {
        36 => {
            let uuid = uuid(text).filter(|uuid| uuid.get_version_num() == 7)?;
            uuid.as_u128() >> 80
        }
        26 => ulid_ms(text)?,
        _ => return None,
    };
    let at = DateTime::from_timestamp_millis(i64::try_from(ms).ok()?)?;
    let year = chrono::Datelike::year(&at);
    (2020..2100).contains(&year).then_some(at)
}

fn ulid_ms(text: &str) -> Option<u128> {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut value: u128 = 0;
    for (place, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|&symbol| symbol == byte.to_ascii_uppercase())? as u128;
        if place == 0 && digit > 7 {
            return None;
        }
        value = value << 5 | digit;
    }
    Some(value >> 80)
}

/// The days whose leaves hold a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimDays {
    /// The number carries its day.
    One(NaiveDate),
    /// It does not: its answer stands in yesterday's leaf and in today's, and it is new only where neither has it. Good for
    /// 24 hours.
    Two(NaiveDate, NaiveDate),
}

impl ClaimDays {
    pub fn iter(self) -> impl Iterator<Item = NaiveDate> {
        let (first, second) = match self {
            Self::One(day) => (day, None),
            Self::Two(yesterday, today) => (yesterday, Some(today)),
        };
        std::iter::once(first).chain(second)
    }
}

/// When a number is looked at, and how far from today its day may lie.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub now: DateTime<Utc>,
    pub zone: Zone,
    pub days_back: u32,
    pub days_ahead: u32,
}

impl Window {
    /// The usual window: 35 days back, 1 ahead.
    pub fn new(now: DateTime<Utc>, zone: Zone) -> Self {
        Self { now, zone, days_back: DAYS_BACK, days_ahead: DAYS_AHEAD }
    }

    /// The chain's business day now.
    pub fn today(&self) -> NaiveDate {
        self.zone.day_of(self.now).to_date()
    }

    /// The first and the last day that a number may have now.
    pub fn days(&self) -> (NaiveDate, NaiveDate) {
        let today = self.today();
        (today - Days::new(self.days_back.into()), today + Days::new(self.days_ahead.into()))
    }

    pub fn contains(&self, day: NaiveDate) -> bool {
        let (oldest, newest) = self.days();
        (oldest..=newest).contains(&day)
    }
}

/// A number as the database knows it: the primary key of `request` is (day, key).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestNumber {
    pub key: Uuid,
    pub days: ClaimDays,
}

impl RequestNumber {
    /// Folds what a caller sent into a key and its days.
    ///
    /// # Errors
    /// `request_number_expired` when the number's day lies outside the window.
    pub fn new(scope: &str, operation: Operation, source: &Source, window: &Window) -> Result<Self, Refusal> {
        let key = key_of(scope, operation, &source.canonical());
        let today = window.today();
        let Some(day) = source.day(window.zone) else {
            return Ok(Self { key, days: ClaimDays::Two(today - Days::new(1), today) });
        };
        if !window.contains(day) {
            let (oldest, newest) = window.days();
            return Err(Refusal::new(Code::RequestNumberExpired)
                .detail(format!("the number's day is {day}; accepted are {oldest} to {newest}"))
                .with("day", day.to_string())
                .with("oldest", oldest.to_string())
                .with("newest", newest.to_string()));
        }
        Ok(Self { key, days: ClaimDays::One(day) })
    }

    /// The number of an item of an upload: of its till's number together with what it says, so that other content is
    /// another item. It lives on its day, whether that lies in the window or not.
    pub fn of_item(scope: &str, operation: Operation, source: &Source, content: &str, day: NaiveDate) -> Self {
        // With a space, which no number has that a caller can send.
        let key = key_of(scope, operation, &format!("{} {content}", source.canonical()));
        Self { key, days: ClaimDays::One(day) }
    }
}

/// The first 128 bits of SHA-256 over the parts, each with its length before it.
fn key_of(scope: &str, operation: Operation, number: &str) -> Uuid {
    let mut hash = Sha256::new();
    for part in [scope, operation.name(), number] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    Uuid::from_bytes(key)
}

/// The digest of what a request means, for telling a repetition from another request under the same number. Digest the
/// parsed request, not its bytes: the order of fields and spaces mean nothing.
pub fn digest<T: Serialize>(meaning: &T) -> i64 {
    let text = serde_json::to_vec(meaning).expect("request types have string keys and no failing serializers");
    xxh3_64(&text).cast_signed()
}

/// The half of a digest that tells what a request is about.
const CORE: i64 = !0xffff_ffff;

/// The digest of a request that says more than its core: one half of the core's, one of the whole. So requests of one core
/// can be told ([`is_of_one_core`]), and one that says no more than its core has the plain digest.
pub fn digest_with_core<C: Serialize, T: Serialize>(core: &C, whole: &T) -> i64 {
    (digest(core) & CORE) | (digest(whole) & !CORE)
}

/// Whether two digests, of [`digest`] or of [`digest_with_core`], are of requests with the same core.
pub fn is_of_one_core(one: i64, other: i64) -> bool {
    (one ^ other) & CORE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_one_core_are_told_and_still_differ() {
        let [plain, more, other] =
            [("a", "a"), ("a", "a and more"), ("b", "b")].map(|(core, whole)| digest_with_core(&core, &whole));
        assert_eq!(plain, digest(&"a"));
        assert!(is_of_one_core(plain, more) && plain != more);
        assert!(!is_of_one_core(plain, other) && !is_of_one_core(more, other));
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn window(now: &str) -> Window {
        Window::new(at(now), Zone::parse("Asia/Shanghai").unwrap())
    }

    fn till(date: &str) -> Source {
        Source::Till { store_id: "S0001".into(), register: "2".into(), business_date: day(date), sequence: 417 }
    }

    fn number(source: &Source, now: &str) -> Result<RequestNumber, Refusal> {
        RequestNumber::new("store:S0001", Operation::Redeem, source, &window(now))
    }

    fn uuid_v7(at: DateTime<Utc>) -> Source {
        let ms = u128::try_from(at.timestamp_millis()).unwrap();
        let uuid = Uuid::from_u128(ms << 80 | 7 << 76 | 2 << 62 | 99);
        Source::Key(uuid.to_string())
    }

    #[test]
    fn a_till_s_number_lives_on_its_business_date() {
        let number = number(&till("2026-11-21"), "2026-11-22T02:00:00Z").unwrap();
        assert_eq!(number.days, ClaimDays::One(day("2026-11-21")));
    }

    #[test]
    fn a_uuid_v7_lives_on_the_business_day_of_its_instant() {
        // 23:59:59.999 and 00:00 in Shanghai.
        for (made, lives) in [("2026-11-21T15:59:59.999Z", "2026-11-21"), ("2026-11-21T16:00:00Z", "2026-11-22")] {
            let source = uuid_v7(at(made));
            for sent in ["2026-11-21T15:59:59.999Z", "2026-11-21T16:00:00Z", "2026-12-01T00:00:00Z"] {
                assert_eq!(number(&source, sent).unwrap().days, ClaimDays::One(day(lives)), "{made} {sent}");
            }
        }
    }

    #[test]
    fn a_ulid_lives_on_the_business_day_of_its_instant() {
        // 01KB... : 2026-11-22T00:00:00Z is 1795305600000 ms.
        let mut ms: u64 = 1_795_305_600_000;
        let mut text = vec![b'0'; 10];
        for place in (0..10).rev() {
            text[place] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(ms & 31) as usize];
            ms >>= 5;
        }
        let source = Source::Key(format!("{}ABCDEFGHJKMNPQRS", String::from_utf8(text).unwrap()));
        assert_eq!(number(&source, "2026-11-22T02:00:00Z").unwrap().days, ClaimDays::One(day("2026-11-22")));
    }

    #[test]
    fn a_floating_number_repeated_across_midnight_meets_its_first_attempt() {
        let source = Source::Key("order-93".into());
        let before = number(&source, "2026-11-21T15:59:59.999999Z").unwrap();
        let after = number(&source, "2026-11-21T16:00:00Z").unwrap();
        assert_eq!(before.key, after.key);
        assert_eq!(before.days, ClaimDays::Two(day("2026-11-20"), day("2026-11-21")));
        assert_eq!(after.days, ClaimDays::Two(day("2026-11-21"), day("2026-11-22")));
        assert!(before.days.iter().any(|day| after.days.iter().any(|other| other == day)));
    }

    #[test]
    fn the_window_is_35_days_back_and_1_ahead() {
        let now = "2026-11-22T02:00:00Z";
        for (date, accepted) in
            [("2026-10-17", false), ("2026-10-18", true), ("2026-11-23", true), ("2026-11-24", false)]
        {
            let outcome = number(&till(date), now);
            assert_eq!(outcome.is_ok(), accepted, "{date}");
            if let Err(refusal) = outcome {
                assert_eq!(refusal.code, Code::RequestNumberExpired);
            }
        }
    }

    #[test]
    fn keys_differ_by_scope_operation_and_number_and_by_nothing_else() {
        let window = window("2026-11-22T02:00:00Z");
        let key = |scope: &str, operation, source: &Source| {
            RequestNumber::new(scope, operation, source, &window).unwrap().key
        };
        let base = key("ab", Operation::Redeem, &Source::Key("c".into()));
        assert_ne!(base, key("a", Operation::Redeem, &Source::Key("bc".into())));
        assert_ne!(base, key("ab", Operation::Reverse, &Source::Key("c".into())));
        assert_eq!(base, key("ab", Operation::Redeem, &Source::Key("c".into())));
        // Frozen: a change here orphans every stored number.
        assert_eq!(base.to_string(), "4c7c88d3-d596-0e5c-d781-5c595f9819fc");
    }

    #[test]
    fn the_case_of_a_uuid_does_not_matter_and_the_case_of_other_keys_does() {
        let upper = |source: &Source| match source {
            Source::Key(text) => Source::Key(text.to_uppercase()),
            Source::Till { .. } => unreachable!(),
        };
        let now = "2026-11-22T02:00:00Z";
        let key = |text: &str| Source::Key(text.into());
        // Of an instant, of none, and of one that no clock made.
        let uuids = ["6fa459ea-ee8a-4ca4-894e-db77e160355e", "ffffffff-ffff-7fff-8fff-ffffffffffff"].map(key);
        for uuid in [uuid_v7(at(now))].into_iter().chain(uuids) {
            assert_eq!(number(&uuid, now).unwrap(), number(&upper(&uuid), now).unwrap(), "{uuid:?}");
        }
        for other in ["a", "6fa459eaee8a4ca4894edb77e160355e", "{6fa459ea-ee8a-4ca4-894e-db77e160355e}"].map(key) {
            assert_ne!(number(&other, now).unwrap(), number(&upper(&other), now).unwrap(), "{other:?}");
        }
    }

    #[test]
    fn a_number_that_no_clock_made_floats() {
        for text in ["7ZZZZZZZZZZZZZZZZZZZZZZZZZ", "00000000000000000000000000", "ffffffff-ffff-7fff-8fff-ffffffffffff"]
        {
            let number = number(&Source::Key(text.into()), "2026-11-22T02:00:00Z").unwrap();
            assert!(matches!(number.days, ClaimDays::Two(..)), "{text}");
        }
    }

    #[test]
    fn a_number_of_a_clock_that_was_far_off_is_refused_and_not_good_for_a_day() {
        let now = "2026-11-22T02:00:00Z";
        for (made, accepted) in [
            ("2020-01-01T00:00:00Z", false),
            ("2026-10-17T15:59:59Z", false),
            ("2026-10-17T16:00:00Z", true),
            ("2026-11-23T15:59:59Z", true),
            ("2026-11-23T16:00:00Z", false),
            ("2099-12-31T00:00:00Z", false),
        ] {
            let outcome = number(&uuid_v7(at(made)), now).map_err(|refusal| refusal.code);
            assert_eq!(outcome.map(|_| ()), if accepted { Ok(()) } else { Err(Code::RequestNumberExpired) }, "{made}");
        }
        // A ULID of the year 2039.
        let ulid = Source::Key("0200000000ABCDEFGHJKMNPQRS".into());
        assert_eq!(number(&ulid, now).unwrap_err().code, Code::RequestNumberExpired);
    }

    #[test]
    fn numbers_are_read_from_text_and_only_in_one_spelling() {
        assert_eq!(Source::parse("till:S0001:2:2026-11-21:417").unwrap(), till("2026-11-21"));
        for other in ["till:", "till:S1:2:2026-11-21:007", "till:S1:2:2026-11-21:+7", "till:S1::2026-11-21:7"] {
            assert_eq!(Source::parse(other).unwrap_err().code, Code::MalformedHeader, "{other}");
        }
        for bad in ["", "a b", "\u{e9}", &"x".repeat(129)] {
            assert_eq!(Source::parse(bad).unwrap_err().code, Code::MalformedHeader, "{bad}");
        }
        assert!(Source::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn operations_have_one_name_each() {
        for &operation in Operation::ALL {
            assert_eq!(Operation::parse(operation.name()), Some(operation));
        }
        assert_eq!(Operation::parse("REDEEM"), None);
    }
}
