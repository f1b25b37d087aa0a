//! Pages of a list: `{"items": […], "next_cursor": "…"}`, by key and without a ceiling.
//!
//! A cursor is opaque: it holds the key of the last row given and a digest of the filter, so that it is refused with
//! another filter instead of skipping rows. It is not secret and not signed: what can be read by tampering with it can
//! be read by asking for the list.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use xxhash_rust::xxh3::xxh3_64;

use super::input::{Int, invalid};
use crate::problem::{Code, Refusal};

/// Rows of a page.
pub type PageLimit = Int<1, 200>;
/// Rows of a page when none are asked for.
pub const PAGE_DEFAULT: i64 = 50;
/// Bytes of a key in a cursor.
const KEY_BYTES_MAX: usize = 240;

/// One page.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Send it as `cursor` for the next page; null when this is the last.
    #[schema(required)]
    pub next_cursor: Option<Cursor>,
}

impl<T> Page<T> {
    /// Makes a page of up to `limit` rows from what a query for `limit + 1` gave: the surplus row tells that there is
    /// more, and is not shown.
    pub fn new(mut rows: Vec<T>, limit: i64, filter: &impl Serialize, key: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = if more { rows.last().map(|row| Cursor::new(filter, &key(row))) } else { None };
        Self { items: rows, next_cursor }
    }
}

/// How many rows to ask the database for, and to show.
pub fn limit_of(limit: Option<PageLimit>) -> i64 {
    limit.map_or(PAGE_DEFAULT, PageLimit::get)
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cursor(String);

impl Cursor {
    pub fn new(filter: &impl Serialize, key: &str) -> Self {
        let mut text = format!("{:016x}", digest(filter));
        text.extend(key.bytes().map(|byte| format!("{byte:02x}")));
        Self(text)
    }

    /// The key of the last row given.
    ///
    /// # Errors
    /// `malformed_query` when the cursor was given for another filter.
    pub fn key(&self, filter: &impl Serialize) -> Result<String, Refusal> {
        let (head, tail) = self.0.split_at(16);
        if head != format!("{:016x}", digest(filter)) {
            return Err(Refusal::new(Code::MalformedQuery).detail("the cursor belongs to a list with another filter"));
        }
        let digits = tail.as_bytes().chunks(2);
        let bytes = digits.map(|pair| std::str::from_utf8(pair).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok()));
        bytes
            .collect::<Option<Vec<u8>>>()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| Refusal::new(Code::MalformedQuery).detail("that is not a cursor"))
    }
}

fn digest(filter: &impl Serialize) -> u64 {
    xxh3_64(&serde_json::to_vec(filter).expect("filters have string keys and no failing serializers"))
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hex = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'));
        let fits = text.len() > 16 && text.len() <= 16 + 2 * KEY_BYTES_MAX && text.len().is_multiple_of(2);
        if hex && fits { Ok(Self(text)) } else { Err(invalid("that is not a cursor")) }
    }
}

impl utoipa::PartialSchema for Cursor {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::String))
            .min_length(Some(18))
            .max_length(Some(16 + 2 * KEY_BYTES_MAX))
            .pattern(Some("^([0-9a-f]{2})+$"))
            .description(Some("Opaque: a `next_cursor` of the same list with the same filter."))
            .into()
    }
}

impl ToSchema for Cursor {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_gives_its_key_back_for_its_own_filter_only() {
        let cursor = Cursor::new(&("open", 1), "S0001é");
        let read: Cursor = serde_json::from_value(serde_json::to_value(&cursor).unwrap()).unwrap();
        assert_eq!(read.key(&("open", 1)).unwrap(), "S0001é");
        assert_eq!(read.key(&("closed", 1)).unwrap_err().code, Code::MalformedQuery);
        for bad in ["", "0123456789abcdef", "0123456789abcdef0", "0123456789abcdefxx", "0123456789ABCDEF00"] {
            assert!(serde_json::from_value::<Cursor>(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_surplus_row_makes_a_cursor_and_is_not_shown() {
        let page = Page::new(vec![1, 2, 3], 2, &(), ToString::to_string);
        assert_eq!(page.items, [1, 2]);
        assert_eq!(page.next_cursor.unwrap().key(&()).unwrap(), "2");
        assert!(Page::new(vec![1, 2], 2, &(), ToString::to_string).next_cursor.is_none());
    }
}
