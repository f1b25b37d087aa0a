//! External systems: whose ids identify members as `<system>:<id>`, and what those ids look like.
//!
//! A process keeps the whole registry in memory, as a snapshot at most [`SYSTEMS_TTL`] old: a system just registered is
//! taken, and one just retired is refused, on every node within that time. Those who check many ids take a snapshot
//! once and ask it without waiting.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;
use utoipa::openapi::{RefOr, Schema};

use super::{ChainError, IdShape, RegistryState, system_store};
use crate::{
    cache::{Bypass, Cache},
    db::pool::Office,
    http::input::{self, BadText, invalid, text_schema},
    member::key::{Kind, SYSTEM_CHARS_MAX},
};

/// How old a node's view of the registry may be.
pub const SYSTEMS_TTL: Duration = Duration::from_secs(2);
/// Systems that a chain may have.
pub const SYSTEMS_MAX: i64 = 500;
/// Digits of a number: what 64 bits hold, and what is no more.
pub const NUMBER_DIGITS_MAX: usize = 20;

crate::text_type! {
    /// What people call an external system.
    SystemName: text 1..=120, "Loyalty of 2015";
}

/// The `<system>` of `<system>:<id>`. It never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SystemId(String);

const PATTERN: &str = "^[a-z][a-z0-9_-]*$";

impl SystemId {
    /// # Errors
    /// [`BadText`]: not such a word, or the name of a login that is a kind of its own.
    pub fn parse(text: impl Into<String>) -> Result<Self, BadText> {
        let text = text.into();
        if text.is_empty() || text.len() > SYSTEM_CHARS_MAX {
            return Err(BadText::Length { min: 1, max: SYSTEM_CHARS_MAX });
        }
        let fits = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'));
        if !fits || !text.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err(BadText::Pattern(PATTERN));
        }
        if Kind::of_prefix(&text).is_some() {
            return Err(BadText::Other("is a kind of login and not another system"));
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for SystemId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SystemId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(String::deserialize(deserializer)?).map_err(invalid)
    }
}

impl utoipa::PartialSchema for SystemId {
    fn schema() -> RefOr<Schema> {
        text_schema(1, SYSTEM_CHARS_MAX, PATTERN, "loyalty-2015")
    }
}

impl ToSchema for SystemId {}

/// An external system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct System {
    pub system: SystemId,
    pub name: SystemName,
    pub id_shape: IdShape,
    /// Ids of a retired one that are known are found; new ones are refused.
    pub state: RegistryState,
    /// Counts changes, from 1.
    pub version: i32,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A system to be.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSystem {
    pub system: SystemId,
    pub name: SystemName,
    /// It never changes: members are found by ids of this shape.
    pub id_shape: IdShape,
}

/// What to change of a system; what is absent stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemPatch {
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub name: Option<SystemName>,
    #[serde(default, deserialize_with = "input::present")]
    #[schema(nullable = false)]
    pub state: Option<RegistryState>,
}

/// Why an id is not one of a system. Never repeats the id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadSystemId {
    #[error("no such system; registered are {}", .registered.join(", "))]
    Unknown { registered: Vec<String> },
    #[error("the system is retired and takes no new ids")]
    Retired,
    #[error(
        "ids of this system are numbers of at most {NUMBER_DIGITS_MAX} digits, without sign or leading zeros, and not 0"
    )]
    Number,
    #[error("ids of this system are UUIDs with hyphens, not all zeros")]
    Uuid,
}

/// What an id is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be given to a member.
    Claim,
    /// To find the member that has it.
    Find,
}

/// A snapshot of the registry.
#[derive(Debug, Clone, Default)]
pub struct Systems(BTreeMap<String, (IdShape, RegistryState)>);

impl Systems {
    pub fn new(systems: impl IntoIterator<Item = (String, IdShape, RegistryState)>) -> Self {
        Self(systems.into_iter().map(|(system, shape, state)| (system, (shape, state))).collect())
    }

    /// Whether `id`, in its normal form (`member::key`), is an id of `system` that a member may be given.
    ///
    /// # Errors
    /// [`BadSystemId`]
    pub fn check(&self, system: &str, id: &str) -> Result<(), BadSystemId> {
        self.check_for(Purpose::Claim, system, id)
    }

    /// As [`Self::check`], by what it is for: ids of a retired system are still found.
    ///
    /// # Errors
    /// [`BadSystemId`]
    pub fn check_for(&self, purpose: Purpose, system: &str, id: &str) -> Result<(), BadSystemId> {
        let Some((shape, state)) = self.0.get(system) else {
            return Err(BadSystemId::Unknown { registered: self.active().map(str::to_owned).collect() });
        };
        if *state == RegistryState::Retired && purpose == Purpose::Claim {
            return Err(BadSystemId::Retired);
        }
        match shape {
            IdShape::String => Ok(()),
            IdShape::Number => {
                // `007` and `+7` are refused, not read as 7: in an older system they may be somebody else.
                let digits = !id.is_empty() && id.len() <= NUMBER_DIGITS_MAX && id.bytes().all(|b| b.is_ascii_digit());
                if digits && !id.starts_with('0') { Ok(()) } else { Err(BadSystemId::Number) }
            }
            IdShape::Uuid => match uuid::Uuid::try_parse(id) {
                Ok(parsed) if id.len() == 36 && !parsed.is_nil() => Ok(()),
                _ => Err(BadSystemId::Uuid),
            },
        }
    }

    /// What the ids of a system look like.
    pub fn shape(&self, system: &str) -> Option<IdShape> {
        self.0.get(system).map(|(shape, _)| *shape)
    }

    /// The systems that take ids, by name.
    pub fn active(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter(|(_, (_, state))| *state == RegistryState::Active).map(|(system, _)| system.as_str())
    }
}

/// The registry in memory; clones share it.
#[derive(Clone)]
pub struct SystemBook {
    cache: Cache<(), Systems>,
    office: Office,
}

impl SystemBook {
    pub fn new(office: Office) -> Self {
        Self { cache: Cache::new("system", 1, SYSTEMS_TTL, Bypass::default(), |(), _| 1), office }
    }

    /// A snapshot, at most [`SYSTEMS_TTL`] old.
    ///
    /// # Errors
    /// [`ChainError`] of the database.
    pub async fn get(&self) -> Result<Arc<Systems>, ChainError> {
        match self.cache.peek(&()).await {
            Some(systems) => Ok(systems),
            None => Box::pin(self.load()).await,
        }
    }

    async fn load(&self) -> Result<Arc<Systems>, ChainError> {
        let load = async {
            let mut conn = self.office.get().await?;
            let rows = system_store::list_systems(&mut conn, None, SYSTEMS_MAX).await?;
            let rows = rows.into_iter().map(|row| (row.system.0, row.id_shape, row.state));
            Ok::<_, ChainError>(Some(Systems::new(rows)))
        };
        let found = self.cache.get(&(), load).await?;
        Ok(found.map(|(systems, _)| systems).unwrap_or_default())
    }

    /// After a change on this node.
    pub async fn forget(&self) {
        self.cache.forget(&()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systems() -> Systems {
        let active = RegistryState::Active;
        Systems::new([
            ("web".to_owned(), IdShape::Number, active),
            ("app".to_owned(), IdShape::Uuid, active),
            ("crm".to_owned(), IdShape::String, active),
            ("old".to_owned(), IdShape::Number, RegistryState::Retired),
        ])
    }

    #[test]
    fn an_id_has_the_shape_of_its_system() {
        let systems = systems();
        let uuid = "8c7e0b58-2c60-4c8f-9d2a-0e2b7b7c9a11";
        for (system, id, expected) in [
            ("web", "42", Ok(())),
            ("web", "18446744073709551615", Ok(())),
            ("web", "0", Err(BadSystemId::Number)),
            ("web", "007", Err(BadSystemId::Number)),
            ("web", "+7", Err(BadSystemId::Number)),
            ("web", "-7", Err(BadSystemId::Number)),
            ("web", "7.0", Err(BadSystemId::Number)),
            ("web", "abc", Err(BadSystemId::Number)),
            ("web", "", Err(BadSystemId::Number)),
            ("web", "٣", Err(BadSystemId::Number)),
            ("web", "184467440737095516150", Err(BadSystemId::Number)),
            ("app", uuid, Ok(())),
            ("app", "00000000-0000-0000-0000-000000000000", Err(BadSystemId::Uuid)),
            ("app", "8c7e0b582c604c8f9d2a0e2b7b7c9a11", Err(BadSystemId::Uuid)),
            ("app", "42", Err(BadSystemId::Uuid)),
            ("crm", "Ünit:7/a", Ok(())),
            ("crm", "0", Ok(())),
            ("old", "42", Err(BadSystemId::Retired)),
            ("erp", "1", Err(BadSystemId::Unknown { registered: vec!["app".into(), "crm".into(), "web".into()] })),
        ] {
            assert_eq!(systems.check(system, id), expected, "{system}:{id}");
        }
        assert_eq!(systems.check_for(Purpose::Find, "old", "42"), Ok(()));
        assert!(systems.check_for(Purpose::Find, "old", "x").is_err());
    }

    #[test]
    fn a_login_of_its_own_kind_is_no_system() {
        for (text, fits) in
            [("web", true), ("loyalty-2015", true), ("qq", false), ("wechat", false), ("Web", false), ("2web", false)]
        {
            assert_eq!(SystemId::parse(text).is_ok(), fits, "{text}");
        }
    }
}
