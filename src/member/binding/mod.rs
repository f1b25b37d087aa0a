//! The identifiers that a member has: adding, changing, verifying and releasing them, and handing one over.
//!
//! The first phone and the first e-mail of a member stand in `member`, where answers show them; further ones and every
//! other kind in `member_auth`. When the first is released, the next oldest of its kind takes its place. `member_key` is
//! their index and the referee of who has one ([`super::store`] says in which order rows are locked).
//!
//! Nobody sees an identifier whole here: a list has masks, and each is named by an opaque [`KeyId`] that stays when keys
//! rotate, so that a desk that sees masks only can still say which one it means, and no URL holds personal data.
//!
//! # What is checked, in this order
//!
//! - Adding: the identifier is of its kind (`identifier_invalid`); the member exists; it has it already, which is done;
//!   its standing ([`super::state`]); `member_keys_full`; `member_key_taken`.
//! - Changing: the same, and `member_key_not_found` for what is to be replaced, after the standing.
//! - Verifying: the identifier is of its kind; the member exists; its standing; `member_key_not_found`.
//! - Releasing: the member exists; its standing; `member_key_not_found`; `member_key_last`.
//! - Taking over: the identifier is of its kind; the member exists; it has it already, which is done; its standing;
//!   `member_keys_full`.
//!
//! All but releasing may be repeated: what is so already is not done again.

pub mod http;
pub(super) mod store;
pub(super) mod verify;
pub(super) mod writer;

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use self::store::AuthRow;
use super::{
    Source,
    key::{self, Identifier},
    store::MemberRow,
};
use crate::{coupon::decide::millis, id::MemberId, secret::Secrets};

/// Identifiers of one member at most.
pub const KEYS_MAX: usize = 32;

/// Names an identifier of a member without telling it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl KeyId {
    /// By the key that never rotates; the text before it cannot be that of a coupon code, which has no NUL.
    fn of(secrets: &Secrets, member_id: MemberId, identifier: &Identifier) -> Self {
        let (kind, text) = (identifier.kind().number(), identifier.normalised());
        Self(secrets.legacy(&format!("\0member_key\0{member_id}\0{kind}\0{text}")).as_u64_pair().0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let sound = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(bits) if sound => Ok(Self(bits)),
            _ => Err("a key_id is 16 hexadecimal digits"),
        }
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for KeyId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::http::input::text_schema(16, 16, "^[0-9a-f]{16}$", "9f86d081884c7d65")
    }
}

impl ToSchema for KeyId {}

/// How somebody showed that an identifier is theirs. It is the caller that has seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// A code sent to the phone.
    Sms,
    /// A code or link sent to the address.
    Email,
    /// A call to the phone.
    Call,
    /// A login at the system that gave the identifier.
    Login,
    /// A card or paper shown to the staff.
    Document,
}

/// Why an identifier passes from one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransferReason {
    /// The operator gave the number to somebody else.
    NewOwner,
    /// One person was registered twice.
    Duplicate,
    /// It was entered for the wrong member.
    Mistake,
}

/// An identifier as it is shown to whoever may not see it whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyView {
    pub key_id: KeyId,
    pub kind: key::Kind,
    #[schema(example = "+86138****0001")]
    pub mask: String,
    /// The phone or e-mail that the member itself shows.
    pub primary: bool,
    #[serde(serialize_with = "millis")]
    pub bound_at: DateTime<Utc>,
    /// When somebody last proved to have it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_millis")]
    #[schema(nullable = false)]
    pub verified_at: Option<DateTime<Utc>>,
    /// Where it was bound, if that was written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub source: Option<Source>,
}

pub(super) fn some_millis<S: serde::Serializer>(at: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => millis(at, serializer),
        None => serializer.serialize_none(),
    }
}

/// The identifiers of a member, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct MemberKeys {
    pub items: Vec<KeyView>,
}

/// Where an identifier of a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Phone,
    Email,
    /// A row of `member_auth`, with its key there.
    Auth(Uuid),
}

/// An identifier that a member has. Personal data: `Debug` shows masks.
#[derive(Debug, Clone)]
pub(super) struct Binding {
    pub(super) key_id: KeyId,
    pub(super) identifier: Identifier,
    pub(super) place: Place,
    pub(super) bound_at: DateTime<Utc>,
    pub(super) verified_at: Option<DateTime<Utc>>,
    pub(super) source: Option<Source>,
}

impl Binding {
    fn view(&self) -> KeyView {
        KeyView {
            key_id: self.key_id,
            kind: self.identifier.kind(),
            mask: self.identifier.mask(),
            primary: !matches!(self.place, Place::Auth(_)),
            bound_at: self.bound_at,
            verified_at: self.verified_at,
            source: self.source,
        }
    }
}

pub(super) fn views(bindings: &[Binding]) -> MemberKeys {
    MemberKeys { items: bindings.iter().map(Binding::view).collect() }
}

/// What a member's rows say of its identifiers, the oldest first.
///
/// # Errors
/// A sentence that names table, column and key of what cannot be.
pub(super) fn bindings(secrets: &Secrets, row: &MemberRow, auths: &[AuthRow]) -> Result<Vec<Binding>, String> {
    let member_id = row.member_id;
    let open = |table, column, sealed: &[u8]| {
        secrets.decrypt(table, column, member_id.get(), sealed).map_err(|error| error.to_string())
    };
    let make = |identifier: Identifier, place, bound_at, verified_at, source| Binding {
        key_id: KeyId::of(secrets, member_id, &identifier),
        identifier,
        place,
        bound_at,
        verified_at,
        source,
    };
    let mut found = Vec::with_capacity(2 + auths.len());
    let columns = [
        ("phone", key::Kind::Phone, Place::Phone, &row.phone, row.phone_bound_at, row.phone_verified_at),
        ("email", key::Kind::Email, Place::Email, &row.email, row.email_bound_at, row.email_verified_at),
    ];
    for (column, kind, place, sealed, bound_at, verified_at) in columns {
        let Some(sealed) = sealed else { continue };
        let bound_at = bound_at.ok_or_else(|| format!("member.{column}_bound_at of {member_id} is missing"))?;
        let identifier = Identifier::from_stored(kind, open("member", column, sealed)?);
        found.push(make(identifier, place, bound_at, verified_at, None));
    }
    for auth in auths {
        let kind = key::Kind::try_from(auth.kind)
            .map_err(|_| format!("member_auth.kind of {member_id} and {} is impossible", auth.key))?;
        let identifier = Identifier::from_stored(kind, open("member_auth", "identifier", &auth.identifier)?);
        let source = Source::from_number(auth.source);
        found.push(make(identifier, Place::Auth(auth.key), auth.bound_at, auth.verified_at, source));
    }
    found.sort_by_key(|one| (one.bound_at, one.identifier.kind(), one.key_id));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::secret::SecretFile;

    fn phone(text: &str) -> Identifier {
        key::normalise(key::Kind::Phone, text).unwrap().unwrap()
    }

    #[test]
    fn a_key_id_names_one_identifier_of_one_member_and_tells_nothing() {
        let file = SecretFile::parse(include_bytes!("../../secret/golden.toml")).unwrap();
        let secrets = Secrets::new(&file, StdRng::seed_from_u64(1));
        let id = |member: i64, text: &str| KeyId::of(&secrets, MemberId::new(member).unwrap(), &phone(text));
        let first = id(1, "13800000001");
        assert_eq!(first, id(1, "+86 138 0000 0001"));
        assert_ne!(first, id(2, "13800000001"), "one person's number is not to be followed from member to member");
        assert_ne!(first, id(1, "13800000002"));
        assert_eq!(first.to_string().parse::<KeyId>().unwrap(), first);
        for bad in ["", "1", "9F86D081884C7D65", "9f86d081884c7d6", "9f86d081884c7d655", "+f86d081884c7d65"] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
        // Frozen: clients keep them.
        assert_eq!(first.to_string(), "05ca5f8a233406c6");
    }
}
