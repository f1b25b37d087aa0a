//! The chain: its regions and stores, their registers, the systems around it, and the API keys of those who call.
//!
//! All are office tables. A change is one conditional statement, or decided under a lock that is held to its end; there
//! is no unlocked read that a write depends on. Nothing is deleted: ledgers name stores, rows name systems. What a store
//! that is not open may still do is the table in [`deed`].

pub mod book;
pub mod cache;
pub mod csv;
pub mod deed;
pub mod http;
pub mod import;
pub mod key;
pub mod names;
pub mod region;
pub mod region_http;
pub mod region_import;
pub mod region_store;
pub mod register;
pub mod register_http;
pub mod store;
pub mod store_import;
pub mod system;
pub mod system_http;
pub mod system_store;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use region::RegionId;

use crate::clock::Zone;
use crate::db::pool;
use crate::http::input::{self, BadText};
use crate::id::{Day, StoreNo};
use crate::problem::{Code, Refusal};

crate::text_type! {
    /// What people and tills call a store. It never changes.
    StoreId: word 1..=32, "S0001";
    /// A store's name.
    StoreName: text 1..=120, "Nanjing Road";
    /// Where a store is.
    City: text 1..=80, "Shanghai";
    /// Street and number of a store.
    StreetAddress: text 1..=200, "829 Nanjing Road East";
    /// How a store is called on the telephone, as it is printed.
    StorePhone: text 1..=32, "+86 21 6322 0000";
}

/// What follows `/v1/stores/` and `/v1/regions/` and so cannot be an id.
pub(crate) const RESERVED: &str = "import";

/// # Errors
/// `invalid_field` for an id that names an endpoint.
pub(crate) fn check_reserved(field: &str, id: &str) -> Result<(), Refusal> {
    if id == RESERVED { Err(Refusal::invalid_field(field, "is the name of an endpoint")) } else { Ok(()) }
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

/// Declares an enum whose numbers stand in rows and whose names stand in the API and in CSV files. Neither changes.
macro_rules! coded {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $code:literal $text:literal),+ $(,)? })+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
        // Not `rename = $text`: utoipa does not see through a literal that a macro hands on.
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The number that rows carry.
            pub const fn code(self) -> i16 {
                match self { $($name::$variant => $code),+ }
            }

            pub fn from_code(code: i16) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }

            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }
    )+ };
}

coded! {
    /// Whether a store does business. What one that is not open may still do is the table in `chain::deed`.
    StoreState {
        Open 1 "open",
        /// For good. It can be opened again.
        Closed 2 "closed",
        /// Shut for a while.
        Suspended 3 "suspended",
    }
    /// Whether something of the registry is in use.
    RegistryState { Active 1 "active", Retired 2 "retired" }
    /// Which registers may call for a store.
    RegisterPolicy {
        /// Any: a register is known by what it calls itself.
        Open 1 "open",
        /// Those that are registered and active; others are refused `register_not_found`.
        Registered 2 "registered",
    }
    /// What the ids of an external system look like.
    IdShape {
        /// Digits, without sign or leading zeros, and not 0, which means unknown.
        Number 1 "number",
        /// With hyphens, in any case; not all zeros.
        Uuid 2 "uuid",
        /// Anything without spaces.
        String 3 "string",
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
    #[schema(required)]
    pub region_id: Option<RegionId>,
    #[schema(required)]
    pub city: Option<City>,
    #[schema(required)]
    pub address: Option<StreetAddress>,
    #[schema(required)]
    pub phone: Option<StorePhone>,
    #[schema(required)]
    pub opened_on: Option<Day>,
    /// The business day on which it was closed; null while it is not.
    #[schema(required)]
    pub closed_on: Option<Day>,
    pub registers: RegisterPolicy,
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
    /// A region that is active.
    #[serde(default)]
    pub region_id: Option<RegionId>,
    #[serde(default)]
    pub city: Option<City>,
    #[serde(default)]
    pub address: Option<StreetAddress>,
    #[serde(default)]
    pub phone: Option<StorePhone>,
    #[serde(default)]
    pub opened_on: Option<Day>,
    /// Open if absent: any register may call.
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub registers: Option<RegisterPolicy>,
}

impl NewStore {
    /// A store of which no more is known.
    pub fn new(store_id: StoreId, name: StoreName) -> Self {
        Self {
            store_id,
            name,
            time_zone: None,
            region_id: None,
            city: None,
            address: None,
            phone: None,
            opened_on: None,
            registers: None,
        }
    }
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
    /// A region that is active; null is none.
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<RegionId>)]
    pub region_id: Option<Option<RegionId>>,
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<City>)]
    pub city: Option<Option<City>>,
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<StreetAddress>)]
    pub address: Option<Option<StreetAddress>>,
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<StorePhone>)]
    pub phone: Option<Option<StorePhone>>,
    #[serde(default, deserialize_with = "input::nullable")]
    #[schema(value_type = Option<Day>)]
    pub opened_on: Option<Option<Day>>,
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub registers: Option<RegisterPolicy>,
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
