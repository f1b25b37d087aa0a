//! Everything that is known of a person, unmasked, for the person.
//!
//! An export is written down in `audit_log` in the transaction that reads, before anything is answered. What it holds is
//! neither stored nor logged. The transaction has one snapshot, so that its parts fit each other and nobody waits for it;
//! coupons are read afterwards, page by page.

pub mod http;
mod store;
pub(super) mod writer;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Attributes, Avatar, Gender, Kind, Source, Standing, State,
    binding::{Binding, KeyId, some_millis},
    key,
    store::MemberRow,
};
use crate::{coupon::decide::millis, id::MemberId, secret::Secrets};

/// Rows of the change log in one export at most.
pub const CHANGES_MAX: usize = 10_000;
/// Coupons in one export at most.
pub const COUPONS_MAX: usize = 50_000;

/// The core row of a member, unmasked.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ExportedMember {
    pub member_id: MemberId,
    pub state: State,
    pub kind: Kind,
    pub muted: bool,
    pub level: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nickname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    pub gender: Gender,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub birthday: Option<String>,
    pub source: Source,
    /// The home store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub store_id: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Avatar>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    #[serde(serialize_with = "millis")]
    pub created_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    pub updated_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_millis")]
    pub erased_at: Option<DateTime<Utc>>,
}

impl ExportedMember {
    /// # Errors
    /// A sentence that names table, column and key of what cannot be.
    fn new(secrets: &Secrets, row: &MemberRow, store_id: Option<Arc<str>>) -> Result<Self, String> {
        let member_id = row.member_id;
        let impossible = |column: &str| format!("member.{column} of {member_id} is impossible");
        let open = |column, sealed: &Option<Vec<u8>>| {
            let open = |sealed: &Vec<u8>| secrets.decrypt("member", column, member_id.get(), sealed);
            sealed.as_ref().map(open).transpose().map_err(|error| error.to_string())
        };
        let Standing { state, kind, muted } = Standing::from_numbers(member_id, row.state, row.kind, row.muted)?;
        let json = |text: &Option<String>| text.clone();
        Ok(Self {
            member_id,
            state,
            kind,
            muted,
            level: row.level,
            name: open("name", &row.name)?,
            nickname: row.nickname.clone(),
            signature: row.signature.clone(),
            gender: Gender::from_number(row.gender).ok_or_else(|| impossible("gender"))?,
            birthday: open("birthday", &row.birthday)?,
            source: Source::from_number(row.source).ok_or_else(|| impossible("source"))?,
            store_id,
            avatar: json(&row.avatar)
                .map(|text| serde_json::from_str(&text))
                .transpose()
                .map_err(|_| impossible("avatar"))?,
            attributes: json(&row.attributes)
                .map(|text| serde_json::from_str(&text))
                .transpose()
                .map_err(|_| impossible("attributes"))?,
            created_at: row.created_at,
            updated_at: row.updated_at,
            erased_at: row.erased_at,
        })
    }
}

/// An identifier, whole.
#[derive(Clone, Serialize, ToSchema)]
pub struct ExportedKey {
    pub key_id: KeyId,
    pub kind: key::Kind,
    pub identifier: String,
    #[serde(serialize_with = "millis")]
    pub bound_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_millis")]
    pub verified_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

impl From<Binding> for ExportedKey {
    fn from(held: Binding) -> Self {
        Self {
            key_id: held.key_id,
            kind: held.identifier.kind(),
            identifier: held.identifier.into_normalised(),
            bound_at: held.bound_at,
            verified_at: held.verified_at,
            source: held.source,
        }
    }
}

/// A row of a log.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct LogLine {
    #[serde(serialize_with = "millis")]
    pub at: DateTime<Utc>,
    #[schema(value_type = String)]
    pub what: &'static str,
    /// The name of the caller's API key.
    pub actor: String,
    #[schema(value_type = Object)]
    pub body: serde_json::Value,
}

/// What one transaction has read of a person.
#[derive(Clone)]
pub(super) struct Person {
    pub(super) member: ExportedMember,
    pub(super) keys: Vec<ExportedKey>,
    pub(super) family: serde_json::Value,
    pub(super) log: Vec<LogLine>,
    pub(super) more_log: bool,
}
