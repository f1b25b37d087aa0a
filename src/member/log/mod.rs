//! Who did what to members: `register_log`, `change_log`, `audit_log`, by month.
//!
//! A row is written in the transaction of what it tells of. Bodies hold names of fields, ids, counts and values that tell
//! nothing of a person (so no names of tags and roles), so that an erasure has nothing to do here. `log_id` is an event's number: UTC day and counter.

pub mod http;
pub mod read;
pub mod store;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Source, edit::Actor};
use crate::{
    http::input::invalid,
    id::{EventId, MemberId},
};

/// Declares kinds of rows: numbers that stand in them and names that answers show. Neither changes.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident { $($variant:ident $number:literal $text:literal),+ $(,)? })+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($variant),+ }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];

            pub const fn number(self) -> i16 {
                match self { $($name::$variant => $number),+ }
            }

            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            pub fn from_number(number: i16) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.number() == number)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let known = Self::ALL.iter().copied().find(|known| known.name() == text);
                known.ok_or_else(|| invalid("is no kind of rows in this log"))
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some(Self::ALL.iter().map(|known| known.name())))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    )+ };
}

kinds! {
    /// What was changed of a member.
    What {
        Core 1 "core",
        State 2 "state",
        KeyAdded 10 "key_added",
        KeyReleased 11 "key_released",
        KeyMovedIn 12 "key_moved_in",
        KeyMovedOut 13 "key_moved_out",
        KeyVerified 14 "key_verified",
        ProfileMall 20 "profile_mall",
        ProfileSport 21 "profile_sport",
        Role 30 "role",
        Address 31 "address",
        Device 32 "device",
        Location 33 "location",
        Tag 34 "tag",
        Attributes 35 "attributes",
        Profile 29 "profile",
        Erased 90 "erased",
    }

    /// What only few may do, and is written down.
    Audited {
        Revealed 1 "revealed",
        Exported 2 "exported",
        Erased 3 "erased",
        KeyTransferred 4 "key_transferred",
        ConflictResolved 20 "conflict_resolved",
    }
}

/// A row of `register_log` to be.
#[derive(Debug)]
pub struct Registration<'a> {
    /// The number of the event that tells of it.
    pub log_id: EventId,
    pub member_id: MemberId,
    pub source: Source,
    pub actor: &'a Actor,
}

/// A row of `change_log` to be.
#[derive(Debug)]
pub struct Change<'a> {
    /// The number of the event that tells of it.
    pub log_id: EventId,
    pub member_id: MemberId,
    pub what: What,
    pub actor: &'a Actor,
    pub body: &'a Value,
}

/// A row of `audit_log` to be.
#[derive(Debug)]
pub struct Audit<'a> {
    pub log_id: EventId,
    pub subject: Option<MemberId>,
    pub what: Audited,
    pub actor: &'a Actor,
    pub body: &'a Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_share_a_number_or_a_name() {
        let mut changes: Vec<_> = What::ALL.iter().map(|what| (what.number(), what.name())).collect();
        changes.sort_unstable();
        insta::assert_debug_snapshot!(changes);
        let numbers: std::collections::HashSet<i16> = changes.iter().map(|(number, _)| *number).collect();
        let names: std::collections::HashSet<&str> = changes.iter().map(|(_, name)| *name).collect();
        assert_eq!((numbers.len(), names.len()), (changes.len(), changes.len()));
        assert!(Audited::ALL.iter().all(|what| Audited::from_number(what.number()) == Some(*what)));
        assert!(What::ALL.iter().all(|what| What::from_number(what.number()) == Some(*what)));
    }
}
