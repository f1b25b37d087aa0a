//! Members: who they are, how they are found, what may be done with them.
//!
//! The base row is in `member`; `member_key` is its index by identifier and the referee of who has one, `member_auth`
//! holds the identifiers that have no column in `member`. [`store`] alone writes the three, in one transaction.
//!
//! # What answers show
//!
//! By role: see the table in [`mask`]. Nobody sees personal data whole here. Phone and e-mail are masked ([`key::Identifier::mask`]); of a name the first
//! character and one `*` show, whatever its length; of a birthday the year, as `1990-**-**`. Nickname and signature are
//! what members show to others and stand as they are. Identifiers other than phone and e-mail are not shown.
//!
//! # What is checked, in this order
//!
//! Registering: each identifier is of its kind, in the order phone, e-mail, username, card, external (`identifier_invalid`,
//! or `invalid_field` for too many, repeated or none at all); birthday and attributes (`invalid_field`); store
//! (`store_not_found`, `store_forbidden`); request number; whether the store does business (`store_closed`,
//! `store_suspended`); identifiers are free, in the same order (`member_key_taken` with the `kind` of the first that is
//! not, its `mask` and the `member_id` that has it: a till must go on with the member that exists, and whoever may
//! register may look members up by identifier anyway).
//!
//! Changing: `member_not_found`, `precondition_failed`, what [`state`] says, attributes (`invalid_field`),
//! `member_state_forbidden`. What belongs to a member beside the core row is in [`family`].

mod about;
pub mod address;
pub mod batch_http;
pub mod binding;
pub mod cache;
pub mod desk;
pub mod device;
pub mod edit;
pub mod erase;
pub mod export;
pub mod family;
pub mod http;
pub mod import;
pub mod key;
pub mod location;
pub mod log;
pub mod mask;
pub mod patch;
pub mod place;
pub mod profile;
pub mod register;
pub mod reveal;
pub mod role;
pub mod state;
pub mod store;
pub mod tag;

use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

pub use self::about::{ATTRIBUTES_MAX, About, Attributes, AttributesPatch, Avatar};
use self::key::{Identifier, Region};
use crate::{
    chain::system::{Purpose, Systems},
    coupon::decide::millis,
    id::{MemberId, StoreNo},
    problem::{Code, Refusal},
};

/// External identifiers in one registration.
pub const EXTERNAL_MAX: usize = 8;
/// The highest level that a member may have; levels begin at 0.
pub const LEVEL_MAX: i16 = 999;
/// No member was born before.
pub const BIRTH_YEAR_MIN: i32 = 1900;

/// What decides over what a member may do and be given; [`state`] holds the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub state: State,
    pub kind: Kind,
    /// May not change what others see.
    pub muted: bool,
}

impl Standing {
    /// From what stands in a row.
    ///
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    pub fn from_numbers(member_id: MemberId, state: i16, kind: i16, muted: bool) -> Result<Self, String> {
        let impossible = |column: &str| format!("member.{column} of {member_id} is impossible");
        Ok(Self {
            state: State::from_number(state).ok_or_else(|| impossible("state"))?,
            kind: Kind::from_number(kind).ok_or_else(|| impossible("kind"))?,
            muted,
        })
    }
}

/// Declares an enum whose numbers stand in rows and whose names stand in the API. Neither changes.
macro_rules! numbered {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident $number:literal),+ $(,)? })+) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The number that rows carry.
            pub const fn number(self) -> i16 {
                match self { $($name::$variant => $number),+ }
            }

            pub fn from_number(number: i16) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.number() == number)
            }
        }
    )+ };
}

pub(crate) use numbered;

numbered! {
    State {
        Normal 1,
        /// May be looked up, not redeem or be given coupons.
        Frozen 2,
        /// Has left; nothing is done for it until it comes back.
        Cancelled 3,
    }
    Kind {
        Ordinary 1,
        /// Stands for no person.
        Virtual 2,
        /// Of the staff, or a test.
        Operations 3,
    }
    /// Unknown is not female.
    Gender { Unknown 0, Male 1, Female 2, Other 3 }
    /// Where a member was registered.
    Source { Unknown 0, Store 1, Web 2, App 3, Import 4 }
}

impl State {
    /// As answers and logs name it.
    pub const fn name(self) -> &'static str {
        match self {
            State::Normal => "normal",
            State::Frozen => "frozen",
            State::Cancelled => "cancelled",
        }
    }
}

impl Kind {
    /// As answers and logs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ordinary => "ordinary",
            Kind::Virtual => "virtual",
            Kind::Operations => "operations",
        }
    }
}

/// A member as answers show it: ids and masks.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Member {
    pub member_id: MemberId,
    pub state: State,
    pub kind: Kind,
    /// Masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "+86138****0001")]
    pub phone: Option<String>,
    /// Masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "l***@example.cn")]
    pub email: Option<String>,
    /// The first character and one star.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "L*")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    pub gender: Gender,
    /// The year only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "1990-**-**")]
    pub birthday: Option<String>,
    pub source: Source,
    /// The home store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false, example = "S0001")]
    pub store_id: Option<Arc<str>>,
    /// As the chain counts its levels, from 0.
    pub level: i16,
    /// May not change what others see: nickname, signature, avatar.
    pub muted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Avatar>,
    /// What else the chain knows of its members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    /// Counts changes, from 1; the entity tag.
    pub version: i32,
    #[serde(serialize_with = "millis")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    pub updated_at: DateTime<Utc>,
    /// When everything that identifies the person was deleted.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "binding::some_millis")]
    #[schema(nullable = false)]
    pub erased_at: Option<DateTime<Utc>>,
}

/// A store by number and by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeStore {
    pub store_no: StoreNo,
    pub store_id: Arc<str>,
}

/// A member to be. Holds personal data, so `Debug` shows none of it.
#[derive(Clone)]
pub struct NewMember {
    pub identifiers: Identifiers,
    pub name: Option<String>,
    pub nickname: Option<String>,
    pub gender: Gender,
    pub birthday: Option<NaiveDate>,
    pub source: Source,
    pub home_store: Option<HomeStore>,
    pub about: About,
}

impl std::fmt::Debug for NewMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMember").field("identifiers", &self.identifiers).finish_non_exhaustive()
    }
}

/// The identifiers of a registration: at least one, no two the same, in the order in which they are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifiers(Vec<Identifier>);

/// Identifiers as they are sent.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    pub phone: Option<&'a str>,
    pub email: Option<&'a str>,
    pub username: Option<&'a str>,
    pub card: Option<&'a str>,
    pub external: &'a [String],
}

impl Identifiers {
    /// Normalises what was sent. Empty texts count as not sent.
    ///
    /// # Errors
    /// `identifier_invalid` with `kind` and `field`; `invalid_field` when there are too many, repeated ones or none.
    pub fn parse(region: Region, systems: &Systems, given: Given<'_>) -> Result<Self, Refusal> {
        let mut found: Vec<Identifier> = Vec::with_capacity(4 + given.external.len());
        let single = [
            (key::Kind::Phone, given.phone),
            (key::Kind::Email, given.email),
            (key::Kind::Username, given.username),
            (key::Kind::Card, given.card),
        ];
        for (kind, text) in single {
            if let Some(text) = text {
                found.extend(identifier(region, kind, text)?);
            }
        }
        if given.external.len() > EXTERNAL_MAX {
            return Err(Refusal::invalid_field("external", format!("must be at most {EXTERNAL_MAX} identifiers")));
        }
        for (position, text) in given.external.iter().enumerate() {
            let field = format!("external[{position}]");
            let Some(identifier) = external(systems, Purpose::Claim, text, &field)? else { continue };
            if found.contains(&identifier) {
                return Err(Refusal::invalid_field(&field, "was given before"));
            }
            found.push(identifier);
        }
        if found.is_empty() {
            return Err(invalid_body("one of phone, email, username, card and external is needed"));
        }
        Ok(Self(found))
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Identifier> {
        self.0.iter()
    }

    /// The first of a kind.
    pub fn of(&self, kind: key::Kind) -> Option<&Identifier> {
        self.iter().find(|identifier| identifier.kind() == kind)
    }
}

/// The identifier of one kind that a text stands for; none for an empty text.
///
/// # Errors
/// `identifier_invalid`
pub fn identifier(region: Region, kind: key::Kind, text: &str) -> Result<Option<Identifier>, Refusal> {
    key::normalise_in(region, kind, text).map_err(|bad| bad_identifier(&bad, kind.name()))
}

/// The identifier of an external system that a text stands for; none for an empty text.
///
/// # Errors
/// `identifier_invalid`, also when the system is not registered, or its ids have another shape.
pub fn external(systems: &Systems, purpose: Purpose, text: &str, field: &str) -> Result<Option<Identifier>, Refusal> {
    let found = key::normalise_external(text).map_err(|bad| bad_identifier(&bad, field))?;
    if let Some(identifier) = &found
        && let Some((system, id)) = identifier.system().and_then(|_| identifier.normalised().split_once(':'))
    {
        systems.check_for(purpose, system, id).map_err(|bad| {
            Refusal::new(Code::IdentifierInvalid)
                .detail(format!("{field}: {bad}"))
                .with("kind", key::Kind::External.name())
                .with("field", field)
        })?;
    }
    Ok(found)
}

fn bad_identifier(bad: &key::BadIdentifier, field: &str) -> Refusal {
    Refusal::new(Code::IdentifierInvalid).detail(bad.to_string()).with("kind", bad.kind.name()).with("field", field)
}

/// A day on which somebody living can have been born.
///
/// # Errors
/// `invalid_field`
pub fn check_birthday(birthday: NaiveDate, today: NaiveDate) -> Result<(), Refusal> {
    if birthday.year() < BIRTH_YEAR_MIN || birthday > today {
        return Err(Refusal::invalid_field("birthday", format!("must be a day from {BIRTH_YEAR_MIN}-01-01 to today")));
    }
    Ok(())
}

/// What no single field is to blame for.
fn invalid_body(reason: &str) -> Refusal {
    Refusal::invalid_field("", reason).detail(reason)
}

/// What anybody may see of a name. One star whatever its length, so that the length does not show.
pub fn mask_name(name: &str) -> String {
    let mut chars = name.trim().chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(_)) => format!("{first}*"),
        _ => "*".to_owned(),
    }
}

/// Digits in a row, spaces and hyphens left out, from which on they may be somebody's number.
const DIGITS_MAX: usize = 8;

/// Whether free text looks as if it named somebody by phone or e-mail.
pub(crate) fn names_somebody(text: &str) -> bool {
    let mut digits = 0;
    for letter in text.chars() {
        match letter {
            '@' => return true,
            ' ' | '-' => {}
            letter if letter.is_numeric() => digits += 1,
            _ => digits = 0,
        }
        if digits > DIGITS_MAX {
            return true;
        }
    }
    false
}

/// What anybody may see of a birthday.
pub fn mask_birthday(birthday: NaiveDate) -> String {
    format!("{:04}-**-**", birthday.year())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn systems() -> Systems {
        use crate::chain::{IdShape, RegistryState};
        Systems::new([("web".to_owned(), IdShape::Number, RegistryState::Active)])
    }

    fn given(phone: &'static str, external: &[String]) -> Result<Vec<String>, (Code, String)> {
        let given = Given { phone: Some(phone), external, ..Given::default() };
        let outcome = Identifiers::parse(Region::CHINA, &systems(), given);
        outcome
            .map(|found| found.iter().map(|one| format!("{}={}", one.kind(), one.normalised())).collect())
            .map_err(|refusal| (refusal.code, refusal.extra["field"].as_str().unwrap().to_owned()))
    }

    #[test]
    fn identifiers_come_in_the_order_in_which_they_are_checked() {
        let external = ["web:42".to_owned(), "qq:7".to_owned()];
        let all = Given {
            phone: Some("13800000001"),
            email: Some("Lin@Example.cn"),
            username: Some("Lin"),
            card: Some("a-1"),
            external: &external,
        };
        let found = Identifiers::parse(Region::CHINA, &systems(), all).unwrap();
        let kinds: Vec<&str> = found.iter().map(|one| one.kind().name()).collect();
        assert_eq!(kinds, ["phone", "email", "username", "card", "external", "qq"]);
    }

    #[test]
    fn a_registration_needs_an_identifier_and_takes_none_twice() {
        let many: Vec<String> = (1..10).map(|id| format!("web:{id}")).collect();
        assert_eq!(given("13800000001", &[]), Ok(vec!["phone=+8613800000001".to_owned()]));
        assert_eq!(given(" ", &["".to_owned()]), Err((Code::InvalidField, "".into())));
        assert_eq!(given("12", &[]), Err((Code::IdentifierInvalid, "phone".into())));
        assert_eq!(given("", &many), Err((Code::InvalidField, "external".into())));
        assert_eq!(given("", &["erp:1".to_owned()]), Err((Code::IdentifierInvalid, "external[0]".into())));
        assert_eq!(given("", &["web:abc".to_owned()]), Err((Code::IdentifierInvalid, "external[0]".into())));
        let twice = ["web:1".to_owned(), " web:1".to_owned()];
        assert_eq!(given("", &twice), Err((Code::InvalidField, "external[1]".into())));
    }

    #[test]
    fn a_refused_identifier_is_not_repeated() {
        let refusal = identifier(Region::CHINA, key::Kind::Email, "secret at example").unwrap_err();
        assert!(!serde_json::to_string(&refusal).unwrap().contains("secret"));
    }

    #[test]
    fn masks_hide_the_rest_and_the_length() {
        for (name, mask) in [("Lin", "L*"), ("林小明", "林*"), ("Li", "L*"), ("林", "*"), ("", "*"), (" Lin", "L*")]
        {
            assert_eq!(mask_name(name), mask, "{name}");
        }
        assert_eq!(mask_birthday("1990-05-01".parse().unwrap()), "1990-**-**");
    }

    #[test]
    fn nobody_is_born_tomorrow() {
        let today = "2026-11-22".parse().unwrap();
        for (birthday, sound) in
            [("1899-12-31", false), ("1900-01-01", true), ("2026-11-22", true), ("2026-11-23", false)]
        {
            assert_eq!(check_birthday(birthday.parse().unwrap(), today).is_ok(), sound, "{birthday}");
        }
    }
}
