//! Unmasked answers: who saw what of whom, and why, is written down in the transaction that reads it.
//!
//! The answer leaves after the commit of its row in `audit_log`: no row, no answer. Should the answer to COMMIT be lost,
//! nothing is revealed, though the row may stand; who asks again leaves a second one. The row names the fields and the
//! reason, not the values.
//!
//! [`openers`] is the list of what can be revealed: what is of the core row, here, and what each table of the family
//! registers with it ([`super::family::Table`]).

pub mod http;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    edit::Actor,
    family, key,
    log::{self, Audit, Audited},
    store::{self, MemberRow},
};
use crate::{
    clock::Clock,
    coupon::decide::millis,
    db::lane::{Target, Tx, WriteError, Writer},
    id::{EventId, MemberId},
    partition::{plan, query},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// What an opener works on.
pub struct Opening<'o, 'c> {
    pub tx: &'o mut Tx<'c>,
    pub(super) row: &'o MemberRow,
    pub secrets: &'o Secrets,
}

impl Opening<'_, '_> {
    pub fn member_id(&self) -> MemberId {
        self.row.member_id
    }

    /// Decrypts a value that belongs to the member.
    ///
    /// # Errors
    /// [`WriteError::Inconsistent`], which names table, column and key.
    pub fn open(&self, table: &'static str, column: &'static str, sealed: &[u8]) -> Result<String, WriteError> {
        let plain = self.secrets.decrypt(table, column, self.row.member_id.get(), sealed);
        plain.map_err(|error| WriteError::Inconsistent(error.to_string()))
    }

    fn core(&self, column: &'static str, sealed: &Option<Vec<u8>>) -> Result<Value, WriteError> {
        let plain = sealed.as_deref().map(|sealed| self.open(store::TABLE, column, sealed)).transpose()?;
        Ok(plain.map_or(Value::Null, Value::String))
    }
}

/// A field that can be revealed.
#[derive(Clone, Copy)]
pub struct Opener {
    pub field: &'static str,
    /// Null when the member has none.
    pub open: for<'a> fn(&'a mut Opening<'_, '_>) -> BoxFuture<'a, Result<Value, WriteError>>,
}

/// What can be revealed of the core row and the identifiers.
const CORE: &[Opener] = &[
    Opener { field: "phone", open: |on| Box::pin(async move { on.core("phone", &on.row.phone) }) },
    Opener { field: "email", open: |on| Box::pin(async move { on.core("email", &on.row.email) }) },
    Opener { field: "name", open: |on| Box::pin(async move { on.core("name", &on.row.name) }) },
    Opener { field: "birthday", open: |on| Box::pin(async move { on.core("birthday", &on.row.birthday) }) },
    Opener { field: "identifiers", open: |on| Box::pin(identifiers(on)) },
];

/// Everything that can be revealed.
pub fn openers() -> Vec<&'static Opener> {
    CORE.iter().chain(family::tables().into_iter().filter_map(|table| table.opener.as_ref())).collect()
}

/// The identifiers besides phone and e-mail, each with its kind.
async fn identifiers(on: &mut Opening<'_, '_>) -> Result<Value, WriteError> {
    let leaf = plan("member_auth").leaf_i64(on.member_id().get());
    let sql = on.tx.sql(query("member_auth/open"), Target::Leaf(leaf));
    let rows: Vec<(key::Kind, Vec<u8>)> =
        sqlx::query_as(sql).bind([on.member_id()]).fetch_all(on.tx.conn().await?).await?;
    let open = |(kind, sealed): (key::Kind, Vec<u8>)| {
        Ok(json!({ "kind": kind, "identifier": on.open("member_auth", "identifier", &sealed)? }))
    };
    rows.into_iter().map(open).collect::<Result<Vec<_>, WriteError>>().map(Value::Array)
}

/// What was revealed. `Debug` shows none of it.
#[derive(Clone, Serialize, utoipa::ToSchema)]
pub struct Revealed {
    member_id: MemberId,
    /// The version of the member that it was read from.
    version: i32,
    /// By name; null where the member has none. `identifiers` is a list of `kind` and `identifier`; what a table of the
    /// family holds, such as `addresses`, is a list of its rows.
    #[schema(value_type = Object)]
    fields: Map<String, Value>,
    /// The row that tells of it.
    log_id: EventId,
    #[serde(serialize_with = "millis")]
    revealed_at: DateTime<Utc>,
}

impl std::fmt::Debug for Revealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revealed").field("member_id", &self.member_id).finish_non_exhaustive()
    }
}

/// One request on its way through the lane.
#[derive(Debug)]
pub struct Reveal {
    pub member_id: MemberId,
    pub log_id: EventId,
    pub actor: Actor,
    /// Names of [`openers`].
    pub fields: Vec<&'static str>,
    pub reason: String,
}

pub struct RevealWriter {
    pub clock: Clock,
    pub secrets: Arc<Secrets>,
}

impl Writer for RevealWriter {
    type Op = Reveal;
    type Answer = Result<Revealed, Refusal>;

    const NAME: &'static str = "reveal";
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<Reveal>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(Some(self.reveal(tx, op).await?));
        }
        Ok(answers)
    }

    /// Whether the row stands or not: what cannot be proved to be audited is not shown.
    async fn look_up(&self, _: &mut Tx<'_>, _: &Reveal) -> Result<Option<Self::Answer>, WriteError> {
        Ok(None)
    }
}

impl RevealWriter {
    async fn reveal(&self, tx: &mut Tx<'_>, op: &Reveal) -> Result<Result<Revealed, Refusal>, WriteError> {
        let now = self.clock.now();
        let Some(row) = store::find_member(tx, op.member_id).await? else {
            return Ok(Err(Code::MemberNotFound.into()));
        };
        let mut fields = Map::with_capacity(op.fields.len());
        for opener in openers().into_iter().filter(|opener| op.fields.contains(&opener.field)) {
            let mut on = Opening { tx, row: &row, secrets: &self.secrets };
            fields.insert(opener.field.to_owned(), (opener.open)(&mut on).await?);
        }
        let body = json!({ "fields": op.fields, "reason": op.reason, "version": row.version });
        let audit = Audit {
            log_id: op.log_id,
            subject: Some(op.member_id),
            what: Audited::Revealed,
            actor: &op.actor,
            body: &body,
        };
        log::store::insert_audit(tx, now, &audit).await?;
        let (member_id, log_id) = (op.member_id, op.log_id);
        Ok(Ok(Revealed { member_id, version: row.version, fields, log_id, revealed_at: now }))
    }
}
