//! Writing down that somebody proved to have an identifier.

use serde_json::json;

use super::{
    super::{
        edit::{Edit, Edited, Editing, Trace},
        key::Identifier,
        log::What,
        state::Action,
    },
    Binding, MemberKeys, Place, Proof, bindings, store, views,
};
use crate::{
    db::lane::WriteError,
    event::Kind as EventKind,
    problem::{Code, Refusal},
};

/// The caller has seen the proof.
#[derive(Debug)]
pub(in crate::member) struct Verify {
    pub(in crate::member) identifier: Identifier,
    pub(in crate::member) proof: Proof,
}

async fn held(on: &mut Editing<'_, '_>) -> Result<Vec<Binding>, WriteError> {
    let auths = store::find_auths(on.tx, on.row.member_id).await?;
    bindings(on.secrets, &on.row, &auths).map_err(WriteError::Inconsistent)
}

impl Edit for Verify {
    type Done = MemberKeys;

    const WHAT: What = What::KeyVerified;
    const ACTION: Action = Action::VerifyKey;

    async fn apply(&self, on: &mut Editing<'_, '_>) -> Result<Result<Edited<MemberKeys>, Refusal>, WriteError> {
        let held = held(on).await?;
        let Some(one) = held.iter().find(|one| one.identifier == self.identifier) else {
            return Ok(Err(Code::MemberKeyNotFound.into()));
        };
        let now = Some(on.now);
        match one.place {
            Place::Phone => on.row.phone_verified_at = now,
            Place::Email => on.row.email_verified_at = now,
            Place::Auth(key) => store::update_auth_verified(on.tx, on.row.member_id, key, on.now).await?,
        }
        if !matches!(one.place, Place::Auth(_)) {
            on.update_member().await?;
        }
        let body = json!({ "kind": one.identifier.kind(), "key_id": one.key_id, "proof": self.proof });
        // The member's version is what its entity tag tells, and it moved with the column.
        let event = match one.place {
            Place::Auth(_) => EventKind::MemberDetailChanged,
            Place::Phone | Place::Email => EventKind::MemberChanged,
        };
        Ok(Ok(Edited { done: self.read(on).await?, trace: Some(Trace { body, event }) }))
    }

    async fn read(&self, on: &mut Editing<'_, '_>) -> Result<MemberKeys, WriteError> {
        Ok(views(&held(on).await?))
    }
}
