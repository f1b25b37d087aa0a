//! Codes of older systems: what they look like, and which coupons they stand for.
//!
//! An old code is not kept, only its keyed hash: `coupon_history_index` leads from that to the coupon. A text is looked up
//! there only if it has a registered shape, so that a made-up code costs no query. Two spellings of a code are one where its
//! shape cannot tell them apart: the case of letters that the alphabet has in one case only, and spaces and hyphens that
//! it does not have.
//!
//! Shapes stay once they are registered, since codes were read by them; each node keeps them, at most [`SHAPES_TTL`] old.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    code::{BadCode, CODE_TEXT_BYTES_MAX},
    desk::{Desk, DeskError},
};
use crate::{
    cache::{Bypass, Cache},
    db::{
        lane::{Cost, Read},
        pool::{self, Office},
    },
    http::input::{BadText, Int},
    id::CodeId,
    partition::{Leaf, plan, query},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// How old a node's view of the shapes may be.
pub const SHAPES_TTL: Duration = Duration::from_secs(2);
/// Shapes that a chain may have: each that fits a text is a query.
pub const SHAPES_MAX: i64 = 16;

crate::text_type! {
    /// What people call a kind of old codes.
    ShapeName: word 1..=40, "loyalty-2015";
}

/// The characters of old codes, each once: printable ASCII.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Alphabet(String);

impl Alphabet {
    /// # Errors
    /// [`BadText`]
    pub fn parse(text: impl Into<String>) -> Result<Self, BadText> {
        let text = text.into();
        if text.is_empty() || text.len() > 94 {
            return Err(BadText::Length { min: 1, max: 94 });
        }
        let fits = text.bytes().all(|byte| byte.is_ascii_graphic());
        if !fits || text.bytes().enumerate().any(|(at, byte)| text.as_bytes()[..at].contains(&byte)) {
            return Err(BadText::Other("must be visible ASCII characters, each once"));
        }
        Ok(Self(text))
    }

    /// The character that one stands for; nothing if it is none of these.
    fn letter(&self, typed: char) -> Option<char> {
        let other = if typed.is_ascii_uppercase() { typed.to_ascii_lowercase() } else { typed.to_ascii_uppercase() };
        [typed, other].into_iter().find(|letter| self.0.contains(*letter))
    }
}

impl<'de> Deserialize<'de> for Alphabet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?).map_err(crate::http::input::invalid)
    }
}

impl utoipa::PartialSchema for Alphabet {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::http::input::text_schema(1, 94, "^[!-~]+$", "0123456789")
    }
}

impl ToSchema for Alphabet {}

/// What the codes of an older system look like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LegacyCodeShape)]
pub struct Shape {
    pub name: ShapeName,
    /// Characters, without spaces and hyphens that the alphabet does not have.
    pub length_min: i16,
    pub length_max: i16,
    pub alphabet: Alphabet,
    #[serde(serialize_with = "super::decide::millis")]
    pub created_at: DateTime<Utc>,
}

/// A shape to be.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLegacyCodeShape)]
pub struct NewShape {
    pub name: ShapeName,
    pub length_min: Int<1, 64>,
    /// No less than `length_min`.
    pub length_max: Int<1, 64>,
    pub alphabet: Alphabet,
}

impl Shape {
    /// The one spelling of a code of this shape; nothing if it has another.
    fn normalise(&self, text: &str) -> Option<String> {
        let mut normal = String::with_capacity(text.len());
        for typed in text.trim().chars() {
            match self.alphabet.letter(typed) {
                Some(letter) => normal.push(letter),
                None if matches!(typed, ' ' | '-') => {}
                None => return None,
            }
        }
        (self.length_min as usize..=self.length_max as usize).contains(&normal.len()).then_some(normal)
    }
}

/// A snapshot of the shapes.
#[derive(Debug, Clone, Default)]
pub struct Shapes(Vec<Shape>);

impl Shapes {
    /// The spellings under which a text may be known, the one of the first shape first.
    pub fn spellings(&self, text: &str) -> Vec<String> {
        if text.len() > CODE_TEXT_BYTES_MAX {
            return Vec::new();
        }
        let mut found: Vec<String> = Vec::new();
        for normal in self.0.iter().filter_map(|shape| shape.normalise(text)) {
            if !found.contains(&normal) {
                found.push(normal);
            }
        }
        found
    }

    /// The keys under which a text may stand in `coupon_history_index`, the one it is imported under first.
    pub fn keys(&self, secrets: &Secrets, text: &str) -> Vec<Uuid> {
        self.spellings(text).iter().map(|normal| secrets.legacy(normal)).collect()
    }
}

/// The shapes in memory; clones share them.
#[derive(Clone)]
pub struct ShapeBook {
    cache: Cache<(), Shapes>,
    office: Office,
}

impl ShapeBook {
    pub fn new(office: Office) -> Self {
        Self { cache: Cache::new("legacy_shape", 1, SHAPES_TTL, Bypass::default(), |(), _| 1), office }
    }

    /// A snapshot, at most [`SHAPES_TTL`] old.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self) -> Result<Arc<Shapes>, pool::Error> {
        match self.cache.peek(&()).await {
            Some(shapes) => Ok(shapes),
            None => Box::pin(self.load()).await,
        }
    }

    async fn load(&self) -> Result<Arc<Shapes>, pool::Error> {
        let load = async {
            let mut conn = self.office.get().await?;
            let mut shapes = list_shapes(&mut conn, None, SHAPES_MAX).await?;
            // The oldest first: the key of a code stays the one it came in under, whatever shapes are registered later.
            shapes.sort_by_key(|shape| shape.created_at);
            Ok::<_, pool::Error>(Some(Shapes(shapes)))
        };
        Ok(self.cache.get(&(), load).await?.map(|(shapes, _)| shapes).unwrap_or_default())
    }

    /// After a change on this node.
    pub async fn forget(&self) {
        self.cache.forget(&()).await;
    }
}

struct ShapeRow {
    created_at: DateTime<Utc>,
    name: String,
    length_min: i16,
    length_max: i16,
    alphabet: String,
}

impl From<ShapeRow> for Shape {
    fn from(row: ShapeRow) -> Self {
        // What was checked when it came in; a shape that another hand wrote fits nothing worse than it says.
        let name = ShapeName::parse(row.name).unwrap_or_else(|_| ShapeName::parse("unnamed").expect("it is a word"));
        let ShapeRow { created_at, length_min, length_max, alphabet, .. } = row;
        Self { name, length_min, length_max, alphabet: Alphabet(alphabet), created_at }
    }
}

/// Up to `rows_max` shapes in the order of their names, from after `after`.
pub async fn list_shapes(
    conn: &mut PgConnection,
    after: Option<&str>,
    rows_max: i64,
) -> Result<Vec<Shape>, pool::Error> {
    let list = sqlx::query_file_as!(ShapeRow, "sql/queries/legacy_code_shape/list.sql", after, rows_max);
    Ok(list.fetch_all(conn).await?.into_iter().map(Shape::from).collect())
}

/// Registers a shape.
///
/// # Errors
/// `legacy_shape_exists`; `invalid_field` when there are [`SHAPES_MAX`].
pub async fn insert_shape(conn: &mut PgConnection, new: &NewShape, now: DateTime<Utc>) -> Result<Shape, DeskError> {
    let (length_min, length_max) = (new.length_min.get() as i16, new.length_max.get() as i16);
    let shape =
        Shape { name: new.name.clone(), length_min, length_max, alphabet: new.alphabet.clone(), created_at: now };
    let insert = sqlx::query_file!(
        "sql/queries/legacy_code_shape/insert.sql",
        now,
        shape.name.as_str(),
        length_min,
        length_max,
        shape.alphabet.0,
        SHAPES_MAX,
    );
    if insert.execute(&mut *conn).await?.rows_affected() == 1 {
        return Ok(shape);
    }
    // Only the reason is looked up afterwards, not whether.
    let known = list_shapes(conn, None, SHAPES_MAX).await?;
    if known.iter().any(|one| one.name == shape.name) {
        return Err(Code::LegacyShapeExists.into());
    }
    Err(Refusal::invalid_field("name", format!("there are {SHAPES_MAX} shapes already")).into())
}

/// `coupon_history_index/find`.
pub struct FindLegacy;

impl Read for FindLegacy {
    type Key = Uuid;
    type Row = CodeId;

    fn leaf(&self, key: &Uuid) -> Leaf {
        plan("coupon_history_index").leaf_uuid(*key)
    }

    async fn fetch(
        &self,
        conn: &mut PgConnection,
        leaf: Leaf,
        keys: &[Uuid],
    ) -> Result<HashMap<Uuid, CodeId>, sqlx::Error> {
        let sql = query("coupon_history_index/find").on(&[leaf]);
        let rows: Vec<(Uuid, CodeId)> = sqlx::query_as(sql).bind(keys).fetch_all(conn).await?;
        Ok(rows.into_iter().collect())
    }
}

/// What a text names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A coupon of ours by its id, which need not exist, or one of an older system, which does.
    Coupon(CodeId),
    /// It has the shape of an old code, and there is none.
    NoSuchLegacy,
    Bad(BadCode),
}

impl Desk {
    /// What a text names: what passes our check is ours, unless no such coupon exists and an old code is spelled like that;
    /// what fails it is an old code, if it has the shape of one.
    ///
    /// # Errors
    /// [`DeskError::Lane`], [`DeskError::Office`].
    pub async fn resolve(&self, text: &str) -> Result<(Named, Cost), DeskError> {
        let parsed = self.secrets.codes().parse(text);
        let keys = self.shapes.get().await?.keys(&self.secrets, text);
        if keys.is_empty() {
            return Ok((parsed.map_or_else(Named::Bad, Named::Coupon), Cost::default()));
        }
        // Boxed: these reads are large, and would be part of every request that names a coupon by a code of ours.
        Box::pin(self.resolve_old(parsed.ok(), keys)).await
    }

    /// What a text names that may be a code of an older system, under one of these keys, and may be one of ours besides.
    async fn resolve_old(&self, parsed: Option<CodeId>, keys: Vec<Uuid>) -> Result<(Named, Cost), DeskError> {
        let mut cost = Cost::default();
        if let Some(code_id) = parsed {
            let (found, more) = self.find_coupon(code_id).await?;
            cost += more;
            if found.is_some() {
                return Ok((Named::Coupon(code_id), cost));
            }
        }
        for key in keys {
            let (found, more) = self.history.find(key).await?;
            cost += more;
            if let Some(code_id) = found {
                return Ok((Named::Coupon(code_id), cost));
            }
        }
        Ok((parsed.map_or(Named::NoSuchLegacy, Named::Coupon), cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shapes(all: &[(i16, i16, &str)]) -> Shapes {
        let shape = |(at, (length_min, length_max, alphabet)): (usize, &(i16, i16, &str))| Shape {
            name: ShapeName::parse(format!("s{at}")).unwrap(),
            length_min: *length_min,
            length_max: *length_max,
            alphabet: Alphabet::parse(*alphabet).unwrap(),
            created_at: DateTime::UNIX_EPOCH,
        };
        Shapes(all.iter().enumerate().map(shape).collect())
    }

    #[test]
    fn spellings_that_a_shape_cannot_tell_apart_are_one() {
        let shapes = shapes(&[(3, 6, "0123456789"), (4, 4, "ABCdef-"), (4, 4, "abABxX")]);
        for (text, expected) in [
            ("123", vec!["123"]),
            (" 12-34 56 ", vec!["123456"]),
            ("12", vec![]),
            ("1234567", vec![]),
            ("12x", vec![]),
            ("abcD", vec!["ABCd"]),
            ("A-DE", vec!["A-de"]),
            ("abAB", vec!["ABAB", "abAB"]),
            ("abxX", vec!["abxX"]),
            ("1\u{661}23", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(shapes.spellings(text), expected, "{text}");
        }
    }

    #[test]
    fn an_alphabet_has_each_character_once() {
        for (text, fits) in
            [("0123456789", true), ("aA-", true), ("", false), ("aa", false), ("a b", false), ("é", false)]
        {
            assert_eq!(Alphabet::parse(text).is_ok(), fits, "{text}");
        }
    }
}
