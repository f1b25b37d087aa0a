//! API keys: who may call, in which role.
//!
//! A token is `tsk_<id>_<secret>`: 12 base62 characters that name the key and 43 that carry 256 random bits. Only the
//! secret's SHA-256 is stored, so a token is shown once, when it is made. A fast hash is right here: 256 random bits
//! cannot be guessed from it, and it is taken at every request.

use chrono::{DateTime, Utc};
use rand::{CryptoRng, Rng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use std::fmt;
use subtle::ConstantTimeEq;
use utoipa::ToSchema;
use xxhash_rust::xxh3::xxh3_64;

use super::{ChainError, StoreId};
use crate::id::StoreNo;
use crate::problem::Refusal;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const PREFIX: &str = "tsk_";
const ID_CHARS: usize = 12;
/// 43 base62 characters hold 256 bits.
const SECRET_CHARS: usize = 43;

crate::text_type! {
    /// What people call an API key; also the scope of its request numbers, unless it belongs to a store.
    KeyName: word 1..=64, "crm-batch";
}

/// What a caller may do: see `http::caller::ACCESS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A store's tills; bound to the store.
    Pos,
    Marketing,
    Ops,
    Admin,
}

impl Role {
    pub const ALL: &[Role] = &[Role::Pos, Role::Marketing, Role::Ops, Role::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pos => "pos",
            Self::Marketing => "marketing",
            Self::Ops => "ops",
            Self::Admin => "admin",
        }
    }

    const fn code(self) -> i16 {
        match self {
            Self::Pos => 1,
            Self::Marketing => 2,
            Self::Ops => 3,
            Self::Admin => 4,
        }
    }

    const fn from_code(code: i16) -> Option<Self> {
        match code {
            1 => Some(Self::Pos),
            2 => Some(Self::Marketing),
            3 => Some(Self::Ops),
            4 => Some(Self::Admin),
            _ => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Role {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|role| role.name() == name).ok_or("a role is pos, marketing, ops or admin")
    }
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    /// Compares in a time that does not depend on where they differ.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A token as it was sent: its shape is right, and nothing more is known.
pub struct Token<'a> {
    pub key_id: &'a str,
    secret: &'a str,
}

impl<'a> Token<'a> {
    /// `None` when it cannot be one of ours: no query is worth it.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (key_id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let base62 = |part: &str, chars| part.len() == chars && part.bytes().all(|b| b.is_ascii_alphanumeric());
        (base62(key_id, ID_CHARS) && base62(secret, SECRET_CHARS)).then_some(Self { key_id, secret })
    }

    pub fn hash(&self) -> SecretHash {
        SecretHash::of(self.secret)
    }
}

/// A token that was just made. Its text is shown once.
pub struct NewToken {
    key_id: String,
    secret: String,
}

impl NewToken {
    pub fn mint(rng: &mut (impl Rng + CryptoRng)) -> Self {
        Self { key_id: base62(rng, ID_CHARS), secret: base62(rng, SECRET_CHARS) }
    }

    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The whole token, to be printed and forgotten.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.key_id, self.secret)
    }
}

fn base62(rng: &mut impl Rng, chars: usize) -> String {
    (0..chars).map(|_| char::from(BASE62[rng.random_range(0..BASE62.len())])).collect()
}

/// An API key that is in force.
pub struct ApiKey {
    pub key_id: String,
    pub name: KeyName,
    pub role: Role,
    /// Of `pos` keys, and of no others.
    pub store: Option<(StoreNo, StoreId)>,
    secret: SecretHash,
    bucket: u64,
}

impl ApiKey {
    pub(crate) fn new(
        key_id: String,
        name: KeyName,
        role: Role,
        store: Option<(StoreNo, StoreId)>,
        secret: SecretHash,
    ) -> Self {
        let bucket = xxh3_64(key_id.as_bytes());
        Self { key_id, name, role, store, secret, bucket }
    }

    /// Whether the token is this key's.
    pub fn opens_with(&self, token: &Token<'_>) -> bool {
        self.secret.is(&token.hash())
    }

    /// Names the key's rate buckets.
    pub fn bucket(&self) -> u64 {
        self.bucket
    }
}

/// What a list of keys shows.
#[derive(Debug, Clone, Serialize)]
pub struct KeyLine {
    pub key_id: String,
    pub name: String,
    pub role: Role,
    pub store_id: Option<String>,
    pub created_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Makes a key; `store_id` is wanted for `pos` and refused for the others.
///
/// # Errors
/// `store_not_found`; `invalid_field` when role and store do not fit or the name is taken.
pub async fn insert_key(
    conn: &mut PgConnection,
    name: &KeyName,
    role: Role,
    store_id: Option<&StoreId>,
    token: &NewToken,
    now: DateTime<Utc>,
) -> Result<(), ChainError> {
    if (role == Role::Pos) != store_id.is_some() {
        return Err(Refusal::invalid_field("store_id", "a pos key has a store, other keys have none").into());
    }
    if let Some(store_id) = store_id {
        super::store::get_store(conn, store_id).await?;
    }
    let made = sqlx::query_file!(
        "sql/queries/api_key/insert.sql",
        now,
        store_id.map(StoreId::as_str),
        role.code(),
        token.key_id(),
        name.as_str(),
        &SecretHash::of(&token.secret).0[..],
    );
    match made.execute(&mut *conn).await?.rows_affected() {
        1 => Ok(()),
        _ => Err(Refusal::invalid_field("name", "a key of this name exists").into()),
    }
}

struct KeyRow {
    key_id: String,
    name: String,
    role: i16,
    store_no: Option<StoreNo>,
    store_id: Option<String>,
    secret_sha256: Vec<u8>,
}

/// The key of this id, if it is in force.
pub async fn find_key(conn: &mut PgConnection, key_id: &str) -> Result<Option<ApiKey>, ChainError> {
    let row = sqlx::query_file_as!(KeyRow, "sql/queries/api_key/find.sql", key_id);
    let Some(row) = row.fetch_optional(&mut *conn).await? else { return Ok(None) };
    let bad = |column| ChainError::Inconsistent { table: "api_key", column, key: key_id.to_owned() };
    let store = match (row.store_no, row.store_id) {
        (Some(store_no), Some(store_id)) => Some((store_no, StoreId::parse(store_id).map_err(|_| bad("store_no"))?)),
        _ => None,
    };
    let secret = SecretHash(row.secret_sha256.try_into().map_err(|_| bad("secret_sha256"))?);
    let role = Role::from_code(row.role).ok_or_else(|| bad("role"))?;
    let name = KeyName::parse(row.name).map_err(|_| bad("name"))?;
    Ok(Some(ApiKey::new(row.key_id, name, role, store, secret)))
}

/// All keys by name, revoked ones too.
pub async fn list_keys(conn: &mut PgConnection) -> Result<Vec<KeyLine>, ChainError> {
    let rows = sqlx::query_file!("sql/queries/api_key/list.sql").fetch_all(&mut *conn).await?;
    rows.into_iter()
        .map(|row| {
            let role = Role::from_code(row.role);
            let bad = || ChainError::Inconsistent { table: "api_key", column: "role", key: row.key_id.clone() };
            Ok(KeyLine {
                role: role.ok_or_else(bad)?,
                key_id: row.key_id,
                name: row.name,
                store_id: row.store_id,
                created_at: row.created_at,
                revoked_at: row.revoked_at,
            })
        })
        .collect()
}

/// Revokes a key by id or name. Every process stops taking it within `cache::REVOKED_WITHIN`.
///
/// # Errors
/// `invalid_field` when no key in force is called so.
pub async fn update_key_revoked(
    conn: &mut PgConnection,
    id_or_name: &str,
    now: DateTime<Utc>,
) -> Result<String, ChainError> {
    let key_id = sqlx::query_file_scalar!("sql/queries/api_key/update_revoked.sql", id_or_name, now);
    key_id
        .fetch_optional(&mut *conn)
        .await?
        .ok_or_else(|| Refusal::invalid_field("key", "no key in force is called so").into())
}

/// Keys that were revoked at or after an instant.
pub async fn list_revoked_since(conn: &mut PgConnection, since: DateTime<Utc>) -> Result<Vec<String>, ChainError> {
    Ok(sqlx::query_file_scalar!("sql/queries/api_key/list_revoked.sql", since).fetch_all(&mut *conn).await?)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn a_token_opens_its_own_key_and_no_other() {
        let mut rng = StdRng::seed_from_u64(1);
        let (one, two) = (NewToken::mint(&mut rng), NewToken::mint(&mut rng));
        let hash = SecretHash::of(&one.secret);
        let key = ApiKey::new(one.key_id.clone(), KeyName::parse("k").unwrap(), Role::Ops, None, hash);
        assert!(key.opens_with(&Token::parse(&one.reveal()).unwrap()));
        assert!(!key.opens_with(&Token::parse(&two.reveal()).unwrap()));
        assert_eq!(one.reveal().len(), 4 + 12 + 1 + 43);
    }

    #[test]
    fn text_that_cannot_be_a_token_is_known_by_its_shape() {
        let good = NewToken::mint(&mut StdRng::seed_from_u64(2)).reveal();
        assert!(Token::parse(&good).is_some());
        let long = format!("{good}x");
        for bad in ["", "tsk_", "tsk__", &good[1..], &good[..good.len() - 1], &long, &good.replace('_', "-")] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
        assert!(Token::parse(&format!("{}é", &good[..good.len() - 2])).is_none());
    }

    #[test]
    fn roles_have_one_code_and_one_name_each() {
        for &role in Role::ALL {
            assert_eq!(Role::from_code(role.code()), Some(role));
            assert_eq!(role.name().parse(), Ok(role));
        }
        assert_eq!(Role::from_code(0), None);
    }
}
