//! Values that come in: checked once, at the edge, by types that also say their limits in the OpenAPI document.
//!
//! A value of the wrong JSON type is `malformed_body` (400); a value of the right type outside its limits is
//! `invalid_field` (422). A deserializer tells the second kind by [`invalid`]. No actix here: domain types use this.
//!
//! - Whole numbers may be written as `156` or `156.0`: JSON Schema calls both integers. Numbers beyond 2^53 in the
//!   second spelling are refused, for they are not exact.
//! - Text has no control characters (PostgreSQL refuses U+0000; the others hide in logs), and its length is counted in
//!   characters.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::{Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};

/// Leads the message of an error about a value, as against its shape. A private-use character that no message of serde
/// begins with.
pub(super) const INVALID: char = '\u{f8ff}';

/// An error about a value of the right type: answered with 422 `invalid_field` and this reason.
pub fn invalid<E: de::Error>(reason: impl fmt::Display) -> E {
    E::custom(format_args!("{INVALID}{reason}"))
}

/// Deserializes a whole number that may be written with a zero fraction. For fields: `deserialize_with`.
pub fn int<'de, D: Deserializer<'de>, T: TryFrom<i64>>(deserializer: D) -> Result<T, D::Error> {
    // Not `deserialize_any`: query strings and paths hold text, which only a typed request makes them parse.
    let value = deserializer.deserialize_i64(WholeNumber)?;
    T::try_from(value).map_err(|_| invalid("the number is too large or too small"))
}

/// An [`Int`] inside a tagged or untagged enum. serde keeps such values before it reads them, and a kept `156.0` is read
/// as a whole number only by who asks for any number. For fields: `deserialize_with`.
pub fn kept<'de, D: Deserializer<'de>, const MIN: i64, const MAX: i64>(
    deserializer: D,
) -> Result<Int<MIN, MAX>, D::Error> {
    let value = deserializer.deserialize_any(WholeNumber)?;
    Int::new(value).ok_or_else(|| invalid(format_args!("must be {MIN} to {MAX}")))
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| invalid("the number is too large or too small"))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i64, E> {
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        if value.fract() != 0.0 {
            return Err(E::invalid_type(Unexpected::Float(value), &self));
        }
        if value.abs() > EXACT_MAX {
            return Err(invalid("the number is too large or too small"));
        }
        Ok(value as i64)
    }
}

/// Leaves a field out of what is compared of a request. Not `skip_serializing`, which leaves it out of the API's document
/// as well.
pub fn nothing<T, S: serde::Serializer>(_: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_unit()
}

/// A field that may be absent but not null: `#[serde(default, deserialize_with = "input::present")]`.
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A field of a PATCH where absent means 'leave it' (`None`) and null means 'clear it' (`Some(None)`).
pub fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// A whole number within limits that the OpenAPI document shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Int<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Int<MIN, MAX> {
    pub const fn new(value: i64) -> Option<Self> {
        if value < MIN || value > MAX { None } else { Some(Self(value)) }
    }

    pub const fn get(self) -> i64 {
        self.0
    }
}

impl<'de, const MIN: i64, const MAX: i64> Deserialize<'de> for Int<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(int(deserializer)?).ok_or_else(|| invalid(format_args!("must be {MIN} to {MAX}")))
    }
}

impl<const MIN: i64, const MAX: i64> Serialize for Int<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(self.0)
    }
}

impl<const MIN: i64, const MAX: i64> utoipa::PartialSchema for Int<MIN, MAX> {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new().schema_type(SchemaType::new(Type::Integer)).minimum(Some(MIN)).maximum(Some(MAX)).into()
    }
}

impl<const MIN: i64, const MAX: i64> utoipa::ToSchema for Int<MIN, MAX> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("Int_{MIN}_{MAX}").replace('-', "m").into()
    }
}

/// Text that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    #[error("must be {min} to {max} characters long")]
    Length { min: usize, max: usize },
    #[error("must not contain control characters")]
    Control,
    #[error("must match {0}")]
    Pattern(&'static str),
    #[error("{0}")]
    Other(&'static str),
}

/// Text of `min` to `max` characters without control characters.
pub fn check_text(text: &str, min: usize, max: usize) -> Result<(), BadText> {
    let chars = text.chars().count();
    if chars < min || chars > max {
        return Err(BadText::Length { min, max });
    }
    if text.chars().any(char::is_control) { Err(BadText::Control) } else { Ok(()) }
}

/// ASCII letters, digits and `_ . -`, beginning with a letter or digit: ids that people and tills say.
pub fn check_word(text: &str, min: usize, max: usize) -> Result<(), BadText> {
    if text.len() < min || text.len() > max {
        return Err(BadText::Length { min, max });
    }
    let fits = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let begins = text.bytes().next().is_none_or(|b| b.is_ascii_alphanumeric());
    if fits && begins { Ok(()) } else { Err(BadText::Pattern(WORD_PATTERN)) }
}

/// The pattern of [`check_text`] as a JSON Schema regular expression.
pub const TEXT_PATTERN: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";
/// The pattern of [`check_word`].
pub const WORD_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*$";

/// The schema of a text type.
pub fn text_schema(min: usize, max: usize, pattern: &str, example: &str) -> RefOr<Schema> {
    ObjectBuilder::new()
        .schema_type(SchemaType::new(Type::String))
        .min_length(Some(min))
        .max_length(Some(max))
        .pattern(Some(pattern))
        .examples([example])
        .into()
}

/// Declares a text type: `text_type! { /// Doc. StoreName: text 1..=120, "Nanjing Road" }`. `text` is free text, `word`
/// an id (see [`check_word`]). The type has `parse`, `as_str`, `Display`, `FromStr`, serde both ways and a schema.
#[macro_export]
macro_rules! text_type {
    (@check text) => { $crate::http::input::check_text };
    (@check word) => { $crate::http::input::check_word };
    (@pattern text) => { $crate::http::input::TEXT_PATTERN };
    (@pattern word) => { $crate::http::input::WORD_PATTERN };
    ($($(#[$doc:meta])* $name:ident: $kind:ident $min:literal..=$max:literal, $example:literal);+ $(;)?) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        #[allow(dead_code, reason = "a type may need only some of them")]
        impl $name {
            /// Characters at most.
            pub const CHARS_MAX: usize = $max;

            /// # Errors
            /// `http::input::BadText`: the limit that is broken.
            pub fn parse(text: impl Into<String>) -> Result<Self, $crate::http::input::BadText> {
                let text = text.into();
                $crate::text_type!(@check $kind)(&text, $min, $max)?;
                Ok(Self(text))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::http::input::BadText;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(String::deserialize(deserializer)?).map_err($crate::http::input::invalid)
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl ::utoipa::PartialSchema for $name {
            fn schema() -> ::utoipa::openapi::RefOr<::utoipa::openapi::Schema> {
                $crate::http::input::text_schema($min, $max, $crate::text_type!(@pattern $kind), $example)
            }
        }

        impl ::utoipa::ToSchema for $name {}
    )+ };
}

#[cfg(test)]
mod tests {
    use super::*;

    text_type! {
        /// A name for tests.
        Name: text 1..=4, "Lin";
        /// An id for tests.
        Word: word 1..=4, "S1";
    }

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn whole_numbers_may_have_a_zero_fraction() {
        for (json, expected) in [
            ("156", Ok(156)),
            ("156.0", Ok(156)),
            ("1.56e2", Ok(156)),
            ("1", Ok(1)),
            ("0", Err(true)),
            ("1001", Err(true)),
            ("1e300", Err(true)),
            ("18446744073709551615", Err(true)),
            ("-0.0", Err(true)),
            ("1.5", Err(false)),
            ("\"1\"", Err(false)),
            ("null", Err(false)),
            ("true", Err(false)),
        ] {
            let outcome = read::<Int<1, 1000>>(json).map(Int::get).map_err(|e| e.starts_with(INVALID));
            assert_eq!(outcome, expected, "{json}");
        }
    }

    #[test]
    fn text_is_counted_in_characters_and_has_no_control_characters() {
        assert_eq!(Name::parse("林林林林").unwrap().as_str(), "林林林林");
        assert_eq!(Name::parse("").unwrap_err(), BadText::Length { min: 1, max: 4 });
        assert_eq!(Name::parse("12345").unwrap_err().to_string(), "must be 1 to 4 characters long");
        for control in ["a\0", "\n", "\u{7f}", "\u{9f}"] {
            assert_eq!(Name::parse(control).unwrap_err(), BadText::Control);
        }
        assert!(Word::parse("S_.-").is_ok());
        for bad in [".", "-a", "a b", "é", "a/b"] {
            assert_eq!(Word::parse(bad).unwrap_err(), BadText::Pattern(WORD_PATTERN), "{bad}");
        }
    }
}
