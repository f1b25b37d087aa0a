//! Ids: what they hold, how they are written, and who makes them.
//!
//! Every id is a type of its own from one macro. In JSON and in URLs an id is a string of decimal digits, since
//! JavaScript loses integers beyond 2^53; in PostgreSQL it is a bigint. There is one spelling for each number: no
//! sign, no leading zeros, at most `i64::MAX`.
//!
//! `CodeId`, `RedemptionId` and `EventId` carry their day, so an id names its partition: day << 41 | number.
//! `MemberId` and `RuleId` come from [`MemberIdMinter`], the numbers of the others from [`Counter`].

mod block;
mod day;
mod lease;
mod minter;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use thiserror::Error;

pub use block::{BLOCK_NUMBERS_MAX, BlockError, Counter, Refill, lease_block};
pub use day::{BadDay, Day};
pub use lease::{LEASE_GRACE_MS, LEASE_SECS, LeaseError, NODES, NodeLease};
pub use minter::{EPOCH_MS, MemberIdMinter, MintError};

/// Bits of the number in an id that carries a day.
pub const NUMBER_BITS: u32 = 41;
/// First number that does not fit in an id that carries a day.
pub const NUMBER_END: i64 = 1 << NUMBER_BITS;
/// Bits of the day in an id that carries one.
pub const DAY_BITS: u32 = 15;
/// First day that does not fit in an id: the days are 2000-01-01 to 2089-09-17.
pub const DAY_END: i32 = 1 << DAY_BITS;
/// Digits of the longest id.
pub const ID_DIGITS_MAX: usize = 19;

/// Why something is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("{kind} is empty: it must be 1 to {ID_DIGITS_MAX} decimal digits")]
    Empty { kind: &'static str },
    #[error("{kind} must be decimal digits only, without sign, spaces or separators")]
    NotDigits { kind: &'static str },
    #[error("{kind} must not begin with a zero")]
    LeadingZero { kind: &'static str },
    #[error("{kind} must not be above {max}")]
    TooLarge { kind: &'static str, max: i64 },
    #[error("{kind} must not be negative")]
    Negative { kind: &'static str },
    #[error("{kind} cannot carry the day number {day}: it must be between 0 (2000-01-01) and {last}", last = DAY_END - 1)]
    Day { kind: &'static str, day: i32 },
    #[error("{kind} cannot carry the number {number}: it must be between 0 and {last}", last = NUMBER_END - 1)]
    Number { kind: &'static str, number: i64 },
}

/// Reads the one spelling of a non-negative number up to `max`.
fn parse_digits(kind: &'static str, text: &str, max: i64) -> Result<i64, IdError> {
    let digits = text.as_bytes();
    if digits.is_empty() {
        return Err(IdError::Empty { kind });
    }
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(IdError::NotDigits { kind });
    }
    if digits[0] == b'0' && digits.len() > 1 {
        return Err(IdError::LeadingZero { kind });
    }
    // Only digits are left, so the one way to fail is to be too large.
    match text.parse::<i64>() {
        Ok(value) if value <= max => Ok(value),
        _ => Err(IdError::TooLarge { kind, max }),
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, max $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(i64);

        impl $name {
            /// The largest id of this type.
            pub const MAX: $name = $name($max);

            /// Takes a number from somewhere that isn't trusted to give ids.
            ///
            /// # Errors
            /// [`IdError`] when it is negative or above [`Self::MAX`].
            pub const fn new(value: i64) -> Result<Self, IdError> {
                if value < 0 {
                    return Err(IdError::Negative { kind: stringify!($name) });
                }
                if value > $max {
                    return Err(IdError::TooLarge { kind: stringify!($name), max: $max });
                }
                Ok(Self(value))
            }

            /// The number, as the database has it.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_digits(stringify!($name), text, $max).map(Self)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> i64 {
                id.0
            }
        }

        impl TryFrom<i64> for $name {
            type Error = IdError;

            fn try_from(value: i64) -> Result<Self, IdError> {
                Self::new(value)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Digits;
                impl serde::de::Visitor<'_> for Digits {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a string of 1 to {ID_DIGITS_MAX} decimal digits")
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Digits)
            }
        }

        impl Type<Postgres> for $name {
            fn type_info() -> PgTypeInfo {
                <i64 as Type<Postgres>>::type_info()
            }
        }

        impl PgHasArrayType for $name {
            fn array_type_info() -> PgTypeInfo {
                <i64 as PgHasArrayType>::array_type_info()
            }
        }

        impl Encode<'_, Postgres> for $name {
            fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <i64 as Encode<Postgres>>::encode_by_ref(&self.0, buf)
            }
        }

        impl Decode<'_, Postgres> for $name {
            fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
                Ok(Self::new(<i64 as Decode<Postgres>>::decode(value)?)?)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some("^[0-9]{1,19}$"))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

macro_rules! dated_id_type {
    ($(#[$doc:meta])* $name:ident) => {
        id_type!($(#[$doc])* $name, max ((DAY_END as i64) << NUMBER_BITS) - 1);

        impl $name {
            /// Puts a day and a number together.
            ///
            /// # Errors
            /// [`IdError`] when the day is outside 0 .. 2^15 or the number outside 0 .. 2^41.
            pub fn from_parts(day: Day, number: i64) -> Result<Self, IdError> {
                if !(0..DAY_END).contains(&day.number()) {
                    return Err(IdError::Day { kind: stringify!($name), day: day.number() });
                }
                if !(0..NUMBER_END).contains(&number) {
                    return Err(IdError::Number { kind: stringify!($name), number });
                }
                Ok(Self(day.first_id() | number))
            }

            /// The day it carries, which names its partition.
            pub fn day(self) -> Day {
                Day::from_code(self.0)
            }

            /// The number within all days.
            pub const fn number(self) -> i64 {
                self.0 & (NUMBER_END - 1)
            }
        }
    };
}

id_type!(
    /// A member.
    MemberId, max i64::MAX
);
id_type!(
    /// A coupon rule; minted like a member's id.
    RuleId, max i64::MAX
);
id_type!(
    /// An address of a member; minted like a member's id.
    AddressId, max i64::MAX
);
id_type!(
    /// A device of a member; minted like a member's id, since a device's own id is personal data.
    DeviceNo, max i64::MAX
);
id_type!(
    /// A job; minted like a member's id.
    JobId, max i64::MAX
);
dated_id_type!(
    /// A coupon: issue day and serial. The printed code adds a check (`coupon::code`).
    CodeId
);
dated_id_type!(
    /// One entry of the redemption ledger: business day and number.
    RedemptionId
);
dated_id_type!(
    /// One event of the outbox: UTC day and number.
    EventId
);

/// A store's internal number; outside, a store has a text id (`store_id`), so this never appears in the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct StoreNo(i32);

impl StoreNo {
    pub const fn new(value: i32) -> Self {
        Self(value)
    }

    pub const fn get(self) -> i32 {
        self.0
    }
}

impl fmt::Display for StoreNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling_and_the_error_says_what_is_wrong() {
        let cases = [
            ("", "MemberId is empty: it must be 1 to 19 decimal digits"),
            ("-1", "MemberId must be decimal digits only, without sign, spaces or separators"),
            ("+1", "MemberId must be decimal digits only, without sign, spaces or separators"),
            (" 1", "MemberId must be decimal digits only, without sign, spaces or separators"),
            ("1_000", "MemberId must be decimal digits only, without sign, spaces or separators"),
            ("٣", "MemberId must be decimal digits only, without sign, spaces or separators"),
            ("01", "MemberId must not begin with a zero"),
            ("00", "MemberId must not begin with a zero"),
            ("9223372036854775808", "MemberId must not be above 9223372036854775807"),
            ("99999999999999999999999999", "MemberId must not be above 9223372036854775807"),
        ];
        for (text, message) in cases {
            assert_eq!(text.parse::<MemberId>().unwrap_err().to_string(), message, "{text:?}");
        }
        for text in ["0", "1", "7301", "9223372036854775807"] {
            assert_eq!(text.parse::<MemberId>().unwrap().to_string(), text);
        }
        assert_eq!(MemberId::new(-1).unwrap_err().to_string(), "MemberId must not be negative");
    }

    #[test]
    fn an_id_is_a_string_in_json_and_a_number_is_refused() {
        let id = MemberId::new(9_007_199_254_740_993).unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), r#""9007199254740993""#);
        assert_eq!(serde_json::from_str::<MemberId>(r#""9007199254740993""#).unwrap(), id);
        let error = serde_json::from_str::<MemberId>("42").unwrap_err().to_string();
        assert!(error.contains("expected a string of 1 to 19 decimal digits"), "{error}");
        assert!(serde_json::from_str::<MemberId>(r#""-42""#).is_err());
    }

    #[test]
    fn an_id_in_the_schema_is_a_string_with_a_pattern() {
        let schema = serde_json::to_value(<CodeId as utoipa::PartialSchema>::schema()).unwrap();
        assert_eq!(schema, serde_json::json!({"type": "string", "pattern": "^[0-9]{1,19}$"}));
        assert_eq!(<CodeId as utoipa::ToSchema>::name(), "CodeId");
    }

    #[test]
    fn an_id_that_carries_a_day_gives_its_parts_back() {
        let last_day = Day::from_number(DAY_END - 1).unwrap();
        for day in [0, 1, 9_822, 32_767].map(|n| Day::from_number(n).unwrap()) {
            for number in [0, 1, 123_456_789, NUMBER_END - 1] {
                let id = RedemptionId::from_parts(day, number).unwrap();
                assert_eq!((id.day(), id.number()), (day, number));
                assert_eq!(Day::from_code(id.get()), day);
            }
        }
        assert_eq!(CodeId::from_parts(last_day, NUMBER_END - 1).unwrap(), CodeId::MAX);
        assert!(CodeId::new(CodeId::MAX.get() + 1).is_err());
    }

    #[test]
    fn parts_out_of_range_are_refused() {
        let day = Day::from_number(0).unwrap();
        assert_eq!(
            EventId::from_parts(day, NUMBER_END).unwrap_err().to_string(),
            "EventId cannot carry the number 2199023255552: it must be between 0 and 2199023255551"
        );
        assert!(EventId::from_parts(day, -1).is_err());
        for out in [-1, DAY_END] {
            let error = EventId::from_parts(Day::from_number(out).unwrap(), 0).unwrap_err();
            assert_eq!(error, IdError::Day { kind: "EventId", day: out });
        }
    }
}
