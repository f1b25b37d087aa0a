//! The chain: its stores, and the API keys of those who call.
//!
//! Both are office tables. Every change is one conditional statement, so there is no read that a write depends on.
//! Stores are closed, never deleted: ledgers name them. Regions, registers and external systems come later.

pub mod book;
pub mod cache;
pub mod http;
pub mod key;
pub mod names;
pub mod store;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Zone;
use crate::db::pool;
use crate::http::input::{self, BadText};
use crate::id::StoreNo;
use crate::problem::{Code, Refusal};

crate::text_type! {
    /// What people and tills call a store. It never changes.
    StoreId: word 1..=32, "S0001";
    /// A store's name.
    StoreName: text 1..=120, "Nanjing Road";
}

/// An IANA time zone name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeZone(Zone);

impl TimeZone {
    /// # Errors
    /// [`BadText`] when there is no zone of this name.
    pub fn parse(name: &str) -> Result<Self, BadText> {
        Zone::parse(name).map(Self).map_err(|_| BadText::Other("must be the name of an IANA time zone"))
    }

    pub fn zone(self) -> Zone {
        self.0
    }
}

impl<'de> Deserialize<'de> for TimeZone {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(input::invalid)
    }
}

impl Serialize for TimeZone {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl utoipa::PartialSchema for TimeZone {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        // All the names there are, so that a client (and a fuzzer) need not guess.
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("The name of an IANA time zone."))
            .enum_values(Some(chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())))
            .into()
    }
}

impl ToSchema for TimeZone {}

/// Whether a store does business. A closed one is looked up, but redeems nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    Open,
    Closed,
}

impl StoreState {
    pub const fn code(self) -> i16 {
        match self {
            Self::Open => 1,
            Self::Closed => 2,
        }
    }

    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(Self::Open),
            2 => Some(Self::Closed),
            _ => None,
        }
    }
}

/// A store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Store {
    /// The narrow number that ledgers carry; never shown.
    #[serde(skip)]
    pub store_no: StoreNo,
    pub store_id: StoreId,
    pub name: StoreName,
    /// Null is the chain's business zone.
    #[schema(required)]
    pub time_zone: Option<TimeZone>,
    pub state: StoreState,
    /// Counts changes, from 1.
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A store to be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStore {
    pub store_id: StoreId,
    pub name: StoreName,
    /// Absent or null is the chain's business zone.
    #[serde(default)]
    pub time_zone: Option<TimeZone>,
}

/// What to change of a store; what is absent stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StorePatch {
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub name: Option<StoreName>,
    /// Null is the chain's business zone.
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<TimeZone>)]
    pub time_zone: Option<Option<TimeZone>>,
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub state: Option<StoreState>,
}

/// Why a question about the chain has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("{0}")]
    Refused(Refusal),
    #[error("the database failed")]
    Database(#[from] pool::Error),
    #[error("the row {key} of table {table} has an impossible {column}")]
    Inconsistent { table: &'static str, column: &'static str, key: String },
}

impl From<sqlx::Error> for ChainError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<Refusal> for ChainError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Code> for ChainError {
    fn from(code: Code) -> Self {
        Self::Refused(code.into())
    }
}
