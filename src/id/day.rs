//! A calendar day: days since 2000-01-01. Written as an ISO date, stored as `date`.
//!
//! A `Day` only names a day; which day an instant falls on is the zone's answer (`clock::Zone`).

use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, NaiveDate};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};
use thiserror::Error;

use super::NUMBER_BITS;

/// 2000-01-01 in chrono's count of days from 0001-01-01, which is day 1.
const EPOCH_FROM_CE: i32 = 730_120;
/// 0001-01-01 and 9999-12-31: the days an ISO date of four digits can write.
const FIRST: i32 = 1 - EPOCH_FROM_CE;
const LAST: i32 = 2_921_939;

/// A calendar day. Ordered; consecutive days have consecutive numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(i32);

/// The text or number is not a day.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a day must be a date like 2026-11-22, between 0001-01-01 and 9999-12-31")]
pub struct BadDay;

impl Day {
    /// 2000-01-01, the first day an id can carry.
    pub const EPOCH: Day = Day(0);

    /// The day with this number, counted from 2000-01-01.
    ///
    /// # Errors
    /// [`BadDay`] outside the years 1 to 9999.
    pub const fn from_number(number: i32) -> Result<Self, BadDay> {
        if number < FIRST || number > LAST { Err(BadDay) } else { Ok(Self(number)) }
    }

    pub fn from_date(date: NaiveDate) -> Self {
        Self(date.num_days_from_ce() - EPOCH_FROM_CE)
    }

    pub fn to_date(self) -> NaiveDate {
        NaiveDate::from_num_days_from_ce_opt(self.0 + EPOCH_FROM_CE)
            .expect("a Day comes from a date, from a checked number or from 23 bits of an id, all of which chrono has")
    }

    /// The day in a code id, redemption id or event id.
    pub const fn from_code(id: i64) -> Self {
        Self((id >> NUMBER_BITS) as i32)
    }

    /// Days since 2000-01-01.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The least id that carries this day: day << 41, also the bound of its partition.
    pub const fn first_id(self) -> i64 {
        (self.0 as i64) << NUMBER_BITS
    }

    /// The first day of this day's month.
    pub fn first_of_month(self) -> Self {
        Self(self.0 - self.to_date().day0() as i32)
    }

    /// The first day of the month after this day's.
    pub fn first_of_next_month(self) -> Self {
        // Any first of a month plus 31 lands in the next one, early enough.
        Self(self.first_of_month().0 + 31).first_of_month()
    }

    /// So many days later, or earlier if negative.
    pub const fn plus(self, days: i32) -> Self {
        Self(self.0 + days)
    }

    /// Days from `earlier` to this day.
    pub const fn since(self, earlier: Day) -> i32 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_date(), f)
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Day({self})")
    }
}

impl FromStr for Day {
    type Err = BadDay;

    fn from_str(text: &str) -> Result<Self, BadDay> {
        // chrono also takes 2026-1-2, signs and spaces; a day has one spelling.
        let shape_is_iso = text.len() == 10
            && text.bytes().enumerate().all(|(i, b)| if i == 4 || i == 7 { b == b'-' } else { b.is_ascii_digit() });
        if !shape_is_iso {
            return Err(BadDay);
        }
        let day = Self::from_date(text.parse().map_err(|_| BadDay)?);
        Self::from_number(day.0)
    }
}

impl From<NaiveDate> for Day {
    fn from(date: NaiveDate) -> Self {
        Self::from_date(date)
    }
}

impl From<Day> for NaiveDate {
    fn from(day: Day) -> Self {
        day.to_date()
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IsoDate;
        impl serde::de::Visitor<'_> for IsoDate {
            type Value = Day;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a date like 2026-11-22")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Day, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(IsoDate)
    }
}

impl Type<Postgres> for Day {
    fn type_info() -> PgTypeInfo {
        <NaiveDate as Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Day {
    fn array_type_info() -> PgTypeInfo {
        <NaiveDate as PgHasArrayType>::array_type_info()
    }
}

impl Encode<'_, Postgres> for Day {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <NaiveDate as Encode<Postgres>>::encode_by_ref(&self.to_date(), buf)
    }
}

impl Decode<'_, Postgres> for Day {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self::from_date(<NaiveDate as Decode<Postgres>>::decode(value)?))
    }
}

impl utoipa::PartialSchema for Day {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(Type::String)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
            .into()
    }
}

impl utoipa::ToSchema for Day {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_count_from_the_first_of_january_2000() {
        for (text, number) in [
            ("2000-01-01", 0),
            ("1999-12-31", -1),
            ("2000-02-29", 59),
            ("2026-11-22", 9_822),
            ("2089-09-17", 32_767),
            ("0001-01-01", FIRST),
            ("9999-12-31", LAST),
        ] {
            let day: Day = text.parse().unwrap();
            assert_eq!((day.number(), day.to_string().as_str()), (number, text));
            assert_eq!(Day::from_date(day.to_date()), day);
        }
        assert_eq!(Day::from_number(LAST + 1), Err(BadDay));
        assert_eq!(Day::from_number(FIRST - 1), Err(BadDay));
    }

    #[test]
    fn a_day_has_one_spelling() {
        for text in ["", "2026-1-2", "2026-02-30", "2026-11-22 ", "+026-11-22", "20261122", "0000-12-31", "２026-11-22"]
        {
            assert_eq!(text.parse::<Day>(), Err(BadDay), "{text:?}");
        }
        let day: Day = serde_json::from_str(r#""2026-11-22""#).unwrap();
        assert_eq!(serde_json::to_string(&day).unwrap(), r#""2026-11-22""#);
        assert!(serde_json::from_str::<Day>("9822").is_err());
    }

    #[test]
    fn months_begin_on_their_first_day() {
        let mut first = "1999-12-01".parse::<Day>().unwrap();
        for _ in 0..1_200 {
            let next = first.first_of_next_month();
            for day in first.number()..next.number() {
                assert_eq!(Day(day).first_of_month(), first);
                assert_eq!(Day(day).first_of_next_month(), next);
            }
            assert!((28..=31).contains(&next.since(first)));
            first = next;
        }
        assert_eq!(first.to_string(), "2099-12-01");
    }

    #[test]
    fn the_largest_and_smallest_bigint_still_have_a_day() {
        assert_eq!(Day::from_code(i64::MAX).to_date().year(), 13_483);
        assert!(Day::from_code(i64::MIN).to_date().year() < 0);
    }
}
