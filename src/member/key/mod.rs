//! What identifies a member: kinds, normal forms and masks.
//!
//! Two spellings of one identifier have one normal form, and only the normal form is hashed (`Secrets::blind`),
//! encrypted and compared. Normal forms are frozen by golden vectors in `tests`: a change of one would lose members.
//! An empty text is no identifier, not an error. Normalising twice changes nothing.
//!
//! - phone: E.164 by libphonenumber, numbers without a country in the chain's region; no extensions.
//! - e-mail: local part NFKC and case-folded, domain by IDNA to ASCII. Dots and plus tags are kept.
//! - username: NFKC and case-folded, as Unicode's NFKC_Casefold, so invisible characters vanish.
//! - card: ASCII letters in capitals and digits; spaces and hyphens as printed on cards vanish.
//! - external: `<system>:<id>`, the system being lower case and registered (elsewhere), the id kept as it is, but
//!   NFC, and UUIDs in lower case.
//! - social and OIDC: `wechat:<app>:<openid>`, `wechat-union:<id>`, `qq:…`, `weibo:…`, `tencent-weibo:…`,
//!   `oidc:<issuer>:<sub>`, kept as they are.
//! - row key: `row-key:<text>`, the key of a row that came from an older system; NFC, otherwise kept as it is.
//!
//! Errors and `Debug` never show an identifier.

mod phone;
#[cfg(test)]
mod tests;

use std::fmt;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use unicase::UniCase;
use unicode_normalization::{UnicodeNormalization, is_nfkc_quick};
use uuid::Uuid;

pub use phone::Region;

/// Longest text that is looked at at all.
pub const INPUT_BYTES_MAX: usize = 1_024;
/// RFC 5321: a path is at most 256 octets with its angle brackets.
pub const EMAIL_BYTES_MAX: usize = 254;
/// RFC 5321, 4.5.3.1.1.
pub const EMAIL_LOCAL_BYTES_MAX: usize = 64;
pub const USERNAME_CHARS_MAX: usize = 64;
pub const CARD_CHARS_MAX: usize = 64;
pub const SYSTEM_CHARS_MAX: usize = 32;
pub const EXTERNAL_ID_CHARS_MAX: usize = 128;
pub const ROW_KEY_CHARS_MAX: usize = 128;
pub const OIDC_ISSUER_BYTES_MAX: usize = 255;
/// OpenID Connect Core, 2: `sub` is at most 255 ASCII characters.
pub const OIDC_SUB_BYTES_MAX: usize = 255;

/// A kind of identifier. The numbers are stored and hashed: they never change.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = KeyKind)]
#[repr(i16)]
pub enum Kind {
    Phone = 1,
    Email = 2,
    Username = 3,
    Card = 4,
    External = 5,
    Wechat = 6,
    WechatUnion = 7,
    Qq = 8,
    Weibo = 9,
    TencentWeibo = 10,
    Oidc = 11,
    /// The key of a row that was migrated from an older system.
    RowKey = 12,
}

impl Kind {
    pub const ALL: [Kind; 12] = [
        Kind::Phone,
        Kind::Email,
        Kind::Username,
        Kind::Card,
        Kind::External,
        Kind::Wechat,
        Kind::WechatUnion,
        Kind::Qq,
        Kind::Weibo,
        Kind::TencentWeibo,
        Kind::Oidc,
        Kind::RowKey,
    ];

    /// The number in the database and in the hash.
    pub const fn number(self) -> u8 {
        self as i16 as u8
    }

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Phone => "phone",
            Kind::Email => "email",
            Kind::Username => "username",
            Kind::Card => "card",
            Kind::External => "external",
            Kind::Wechat => "wechat",
            Kind::WechatUnion => "wechat_union",
            Kind::Qq => "qq",
            Kind::Weibo => "weibo",
            Kind::TencentWeibo => "tencent_weibo",
            Kind::Oidc => "oidc",
            Kind::RowKey => "row_key",
        }
    }

    /// Whether it reaches a person, which a virtual member is not.
    pub const fn identifies_a_person(self) -> bool {
        matches!(self, Kind::Phone | Kind::Email)
    }

    /// What identifiers of this kind begin with, if they say their kind themselves.
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Kind::Wechat => Some("wechat"),
            Kind::WechatUnion => Some("wechat-union"),
            Kind::Qq => Some("qq"),
            Kind::Weibo => Some("weibo"),
            Kind::TencentWeibo => Some("tencent-weibo"),
            Kind::Oidc => Some("oidc"),
            Kind::RowKey => Some("row-key"),
            Kind::Phone | Kind::Email | Kind::Username | Kind::Card | Kind::External => None,
        }
    }

    pub fn of_prefix(prefix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.prefix() == Some(prefix))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl TryFrom<i16> for Kind {
    type Error = UnknownKind;

    fn try_from(number: i16) -> Result<Self, UnknownKind> {
        Self::ALL.into_iter().find(|kind| *kind as i16 == number).ok_or(UnknownKind(number))
    }
}

/// A stored number that names no kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("there is no kind of identifier with the number {0}")]
pub struct UnknownKind(pub i16);

/// An identifier in its normal form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier {
    kind: Kind,
    normalised: String,
}

/// Why a text is not an identifier of its kind. Says what the kind needs, never the text.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{kind}: {why}")]
pub struct BadIdentifier {
    pub kind: Kind,
    pub why: Why,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Why {
    #[error("must be at most {INPUT_BYTES_MAX} bytes")]
    TooLong,
    #[error("must not contain control characters")]
    Control,
    #[error("must be a valid phone number, with its country code or of the chain's own country, without extension")]
    Phone,
    #[error("must be an e-mail address such as lin@example.cn, of at most {EMAIL_BYTES_MAX} bytes")]
    Email,
    #[error("must be at most {USERNAME_CHARS_MAX} characters")]
    Username,
    #[error("must be at most {CARD_CHARS_MAX} letters and digits")]
    Card,
    #[error(
        "must be <system>:<id>, the system a lower-case name of at most {SYSTEM_CHARS_MAX} characters, \
         the id at most {EXTERNAL_ID_CHARS_MAX} characters without spaces"
    )]
    External,
    #[error("must be {0}:<id>, the id of at most {EXTERNAL_ID_CHARS_MAX} letters, digits, '_', '-' or '.'")]
    Social(&'static str),
    #[error("must be wechat:<app>:<openid>")]
    Wechat,
    #[error("must be oidc:<issuer>:<sub>, the issuer an https URL without query, ':' and '%' in sub percent-encoded")]
    Oidc,
    #[error("must be row-key:<text>, the text of at most {ROW_KEY_CHARS_MAX} characters")]
    RowKey,
}

/// [`normalise_in`] for a chain in China.
///
/// # Errors
/// [`BadIdentifier`]
pub fn normalise(kind: Kind, text: &str) -> Result<Option<Identifier>, BadIdentifier> {
    normalise_in(Region::CHINA, kind, text)
}

/// The identifier that a text stands for; none if there is nothing but white space. `region` is where phone numbers
/// without a country code belong.
///
/// # Errors
/// [`BadIdentifier`] when it is not of its kind.
pub fn normalise_in(region: Region, kind: Kind, text: &str) -> Result<Option<Identifier>, BadIdentifier> {
    let refuse = |why| BadIdentifier { kind, why };
    if text.len() > INPUT_BYTES_MAX {
        return Err(refuse(Why::TooLong));
    }
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.chars().any(char::is_control) {
        return Err(refuse(Why::Control));
    }
    let normalised = match kind {
        Kind::Phone => phone::normalise(region, text),
        Kind::Email => email(text),
        Kind::Username => match nfkc_casefold(text) {
            // Only invisible characters: nothing to see is nothing given.
            name if name.trim().is_empty() => return Ok(None),
            name => bounded(name.trim(), USERNAME_CHARS_MAX).ok_or(Why::Username),
        },
        Kind::Card => match card(text) {
            Some(number) if number.is_empty() => return Ok(None),
            number => number.ok_or(Why::Card),
        },
        Kind::External => external(text).ok_or(Why::External),
        Kind::Wechat => social(text, "wechat", 2..=2).ok_or(Why::Wechat),
        Kind::WechatUnion => social(text, "wechat-union", 1..=1).ok_or(Why::Social("wechat-union")),
        Kind::Qq => social(text, "qq", 1..=2).ok_or(Why::Social("qq")),
        Kind::Weibo => social(text, "weibo", 1..=2).ok_or(Why::Social("weibo")),
        Kind::TencentWeibo => social(text, "tencent-weibo", 1..=2).ok_or(Why::Social("tencent-weibo")),
        Kind::Oidc => oidc(text).ok_or(Why::Oidc),
        Kind::RowKey => row_key(text).ok_or(Why::RowKey),
    };
    match normalised {
        Ok(normalised) => Ok(Some(Identifier { kind, normalised })),
        Err(why) => Err(refuse(why)),
    }
}

/// The identifier of a text that says its kind by what it begins with, as in the API's `external`: `wechat:…` and its
/// like are kinds of their own, everything else is of a registered system.
///
/// # Errors
/// [`BadIdentifier`]
pub fn normalise_external(text: &str) -> Result<Option<Identifier>, BadIdentifier> {
    let prefix = text.trim_start().split(':').next().unwrap_or_default();
    normalise(Kind::of_prefix(prefix).unwrap_or(Kind::External), text)
}

impl Identifier {
    /// What was normalised before it was stored. No rule is checked again: rules may have grown narrower since.
    pub fn from_stored(kind: Kind, normalised: String) -> Self {
        Self { kind, normalised }
    }

    /// The identifier of a login by OpenID Connect.
    ///
    /// # Errors
    /// [`BadIdentifier`] when the issuer is not an https URL or a part is too long.
    pub fn oidc(issuer: &str, sub: &str) -> Result<Self, BadIdentifier> {
        // The issuer may hold colons, so `sub` must not: whatever text two pairs give, it is not the same.
        let sub = sub.replace('%', "%25").replace(':', "%3A");
        normalise(Kind::Oidc, &format!("oidc:{issuer}:{sub}"))?
            .ok_or(BadIdentifier { kind: Kind::Oidc, why: Why::Oidc })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Personal data: for hashing, encryption and answers to those who may see it.
    pub fn normalised(&self) -> &str {
        &self.normalised
    }

    pub fn into_normalised(self) -> String {
        self.normalised
    }

    /// The registered system of an external identifier.
    pub fn system(&self) -> Option<&str> {
        (self.kind == Kind::External).then(|| self.normalised.split(':').next()).flatten()
    }

    /// What anybody may see of it: `+86138****0001`, `l***@example.cn`, `web:4***`.
    pub fn mask(&self) -> String {
        match self.kind {
            Kind::Phone => phone::mask(&self.normalised),
            Kind::Email => match self.normalised.rsplit_once('@') {
                Some((local, domain)) => format!("{}@{domain}", first_char(local)),
                None => first_char(&self.normalised),
            },
            Kind::Username | Kind::Card => first_char(&self.normalised),
            Kind::External
            | Kind::Wechat
            | Kind::WechatUnion
            | Kind::Qq
            | Kind::Weibo
            | Kind::TencentWeibo
            | Kind::Oidc
            | Kind::RowKey => match self.normalised.split_once(':') {
                Some((system, id)) => format!("{system}:{}", first_char(id)),
                None => first_char(&self.normalised),
            },
        }
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identifier({} {})", self.kind, self.mask())
    }
}

/// The first character and three stars, however long the rest; a text of one character shows none.
fn first_char(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(first), Some(_)) => format!("{first}***"),
        _ => "***".to_owned(),
    }
}

fn bounded(text: &str, chars_max: usize) -> Option<String> {
    (text.chars().count() <= chars_max).then(|| text.to_owned())
}

/// Unicode's NFKC_Casefold: compatibility forms, case and invisible characters make no difference.
fn nfkc_casefold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = fold_once(text);
    // Folding can make something that normalises anew, and the other way round; it settles at once or at the second.
    loop {
        let again = fold_once(&folded);
        if again == folded {
            return folded;
        }
        folded = again;
    }
}

fn fold_once(text: &str) -> String {
    let composed: String = text.chars().filter(|c| !is_invisible(*c)).nfkc().filter(|c| !is_invisible(*c)).collect();
    UniCase::unicode(composed).to_folded_case().nfkc().collect()
}

/// Unicode's Default_Ignorable_Code_Point.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
        | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
        | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}'
        | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// NFKC without what can't be seen: the first step for what people type or paste.
fn cleaned(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).nfkc().collect()
}

fn email(text: &str) -> Result<String, Why> {
    let text = if text.is_ascii() { text.to_owned() } else { cleaned(text) };
    // After NFKC, since the full-width '＠' is one too.
    let (local, domain) = text.rsplit_once('@').ok_or(Why::Email)?;
    let local = nfkc_casefold(local);
    let local_is_bad = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '(' | ')' | '<' | '>' | '[' | ']' | '\\' | ',' | ';' | ':' | '"' | '@')
    };
    if local.is_empty() || local.len() > EMAIL_LOCAL_BYTES_MAX || local.contains(local_is_bad) {
        return Err(Why::Email);
    }
    // Not folded before: IDNA maps case itself and keeps apart what folding joins, such as ß and ss.
    let domain = Uts46::new()
        .to_ascii(domain.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
        .map_err(|_| Why::Email)?;
    if !domain.contains('.') || local.len() + 1 + domain.len() > EMAIL_BYTES_MAX {
        return Err(Why::Email);
    }
    Ok(format!("{local}@{domain}"))
}

fn card(text: &str) -> Option<String> {
    let text = if text.is_ascii() { text.to_owned() } else { cleaned(text) };
    let number: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).map(|c| c.to_ascii_uppercase()).collect();
    (number.chars().all(|c| c.is_ascii_alphanumeric()) && number.len() <= CARD_CHARS_MAX).then_some(number)
}

fn external(text: &str) -> Option<String> {
    let (system, id) = text.split_once(':')?;
    let mut name = system.chars();
    let named = name.next().is_some_and(|c| c.is_ascii_lowercase())
        && name.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
        && system.len() <= SYSTEM_CHARS_MAX
        && Kind::of_prefix(system).is_none();
    if !named || id.is_empty() || id.chars().any(|c| c.is_whitespace() || is_invisible(c)) {
        return None;
    }
    let id = if is_hyphenated_uuid(id) { id.to_ascii_lowercase() } else { nfc(id) };
    (id.chars().count() <= EXTERNAL_ID_CHARS_MAX).then(|| format!("{system}:{id}"))
}

fn nfc(text: &str) -> String {
    if is_nfkc_quick(text.chars()) == unicode_normalization::IsNormalized::Yes {
        return text.to_owned();
    }
    text.nfc().collect()
}

fn is_hyphenated_uuid(id: &str) -> bool {
    // Other spellings of a UUID could be numbers or names as well.
    id.len() == 36 && Uuid::try_parse(id).is_ok()
}

fn social(text: &str, prefix: &str, parts: std::ops::RangeInclusive<usize>) -> Option<String> {
    let id = text.strip_prefix(prefix)?.strip_prefix(':')?;
    let sound = |part: &str| {
        (1..=EXTERNAL_ID_CHARS_MAX).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    };
    (parts.contains(&id.split(':').count()) && id.split(':').all(sound)).then(|| text.to_owned())
}

fn row_key(text: &str) -> Option<String> {
    let row: String = text.strip_prefix("row-key:")?.nfc().collect();
    let row = bounded(row.trim(), ROW_KEY_CHARS_MAX)?;
    (!row.is_empty()).then(|| format!("row-key:{row}"))
}

fn oidc(text: &str) -> Option<String> {
    let (issuer, sub) = text.strip_prefix("oidc:")?.rsplit_once(':')?;
    let host = issuer.strip_prefix("https://")?;
    let printable = |part: &str| part.bytes().all(|b| b.is_ascii_graphic());
    let sound = !host.is_empty()
        && !host.starts_with(['/', ':'])
        && !issuer.contains(['?', '#'])
        && issuer.len() <= OIDC_ISSUER_BYTES_MAX
        && printable(issuer)
        && (1..=OIDC_SUB_BYTES_MAX).contains(&sub.replace("%25", "%").replace("%3A", ":").len())
        && printable(sub);
    sound.then(|| text.to_owned())
}
