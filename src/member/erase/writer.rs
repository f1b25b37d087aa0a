//! The transaction of an erasure.

use std::sync::Arc;

use serde_json::json;

use super::{
    super::{
        Gender, State,
        binding::{self, KEYS_MAX},
        cache::key_subject,
        edit::Actor,
        family,
        log::{self, Audit, Audited, Change, What},
        store::{self as member_store, MemberRow},
    },
    EraseReason, Erased,
};
use crate::{
    clock::Clock,
    db::lane::{Tx, WriteError, Writer},
    event::{self, Kind as EventKind, NewEvent},
    id::{EventId, MemberId},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// Event numbers that an erasure may need: the member, and each key under two versions and a third that is going.
pub(in crate::member) const EVENTS_MAX: usize = 1 + 3 * KEYS_MAX;

#[derive(Debug)]
pub(in crate::member) struct EraseOp {
    pub(in crate::member) member_id: MemberId,
    /// [`EVENTS_MAX`] of them; the first numbers the rows in the logs.
    pub(in crate::member) events: Vec<EventId>,
    pub(in crate::member) actor: Actor,
    /// Versions that the caller has seen; `None` is any.
    pub(in crate::member) versions: Option<Vec<i64>>,
    pub(in crate::member) reason: EraseReason,
}

/// What became of it, with the names in events of the keys that are nobody's now.
pub(in crate::member) type Gone = (Erased, Vec<i64>);

pub(in crate::member) struct EraseWriter {
    pub(in crate::member) clock: Clock,
    pub(in crate::member) secrets: Arc<Secrets>,
}

impl Writer for EraseWriter {
    type Op = EraseOp;
    type Answer = Result<Gone, Refusal>;

    const NAME: &'static str = "member_erase";
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<EraseOp>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(Some(self.erase(tx, op).await?));
        }
        Ok(answers)
    }

    /// The lock waits for a commit under way; then the member is erased or not.
    async fn look_up(&self, tx: &mut Tx<'_>, op: &EraseOp) -> Result<Option<Self::Answer>, WriteError> {
        let Some(row) = member_store::lock_member(tx, op.member_id).await? else { return Ok(None) };
        Ok(row.erased_at.map(|erased_at| Ok((erased(op.member_id, erased_at), Vec::new()))))
    }
}

fn erased(member_id: MemberId, erased_at: chrono::DateTime<chrono::Utc>) -> Erased {
    Erased { member_id, state: State::Cancelled, erased_at }
}

/// The row of a member as it is when nothing tells who it was.
fn blank(row: MemberRow) -> MemberRow {
    MemberRow {
        phone_bound_at: None,
        email_bound_at: None,
        phone_verified_at: None,
        email_verified_at: None,
        home_store_no: None,
        state: State::Cancelled.number(),
        gender: Gender::Unknown.number(),
        phone: None,
        email: None,
        name: None,
        birthday: None,
        nickname: None,
        signature: None,
        attributes: None,
        avatar: None,
        ..row
    }
}

impl EraseWriter {
    async fn erase(&self, tx: &mut Tx<'_>, op: &EraseOp) -> Result<Result<Gone, Refusal>, WriteError> {
        let member_id = op.member_id;
        let Some(row) = member_store::lock_member(tx, member_id).await? else {
            return Ok(Err(Code::MemberNotFound.into()));
        };
        if let Some(erased_at) = row.erased_at {
            return Ok(Ok((erased(member_id, erased_at), Vec::new())));
        }
        if op.versions.as_ref().is_some_and(|seen| !seen.contains(&row.version.into())) {
            return Ok(Err(Refusal::new(Code::PreconditionFailed).with("version", row.version)));
        }
        let now = self.clock.now();
        let auths = binding::store::find_auths(tx, member_id).await?;
        let held = binding::bindings(&self.secrets, &row, &auths).map_err(WriteError::Inconsistent)?;
        let keys: Vec<_> =
            held.iter().flat_map(|one| member_store::keys_known_of(&self.secrets, &one.identifier)).collect();
        let moved: Vec<i64> = keys.iter().copied().map(key_subject).collect();
        if !keys.is_empty() {
            binding::store::release_keys(tx, member_id, keys).await?;
        }
        let mut row = blank(row);
        (row.erased_at, row.updated_at) = (Some(now), now);
        member_store::update_member(tx, &mut row).await?;
        if !auths.is_empty() {
            let keys = auths.iter().map(|auth| auth.key).collect();
            binding::store::delete_auths(tx, member_id, keys).await?;
        }
        family::delete_all(tx, member_id).await?;
        self.trace(tx, op, now, &moved).await?;
        Ok(Ok((erased(member_id, now), moved)))
    }

    /// Logs, audit and events.
    async fn trace(
        &self,
        tx: &mut Tx<'_>,
        op: &EraseOp,
        now: chrono::DateTime<chrono::Utc>,
        moved: &[i64],
    ) -> Result<(), WriteError> {
        let (member_id, log_id) = (op.member_id, op.events[0]);
        let body = json!({ "reason": op.reason });
        let change = Change { log_id, member_id, what: What::Erased, actor: &op.actor, body: &body };
        log::store::insert_change(tx, now, &change).await?;
        let audit = Audit { log_id, subject: Some(member_id), what: Audited::Erased, actor: &op.actor, body: &body };
        log::store::insert_audit(tx, now, &audit).await?;
        if moved.len() >= op.events.len() {
            return Err(WriteError::Inconsistent(format!("member {member_id} has more identifiers than it may")));
        }
        let of_member =
            (EventKind::MemberChanged, member_id.get(), json!({ "state": State::Cancelled, "erased": true }));
        let of_key = |subject: &i64| (EventKind::MemberKeyMoved, *subject, json!({ "member_id": member_id }));
        let told = std::iter::once(of_member).chain(moved.iter().map(of_key));
        let events: Vec<NewEvent> = told
            .zip(&op.events)
            .map(|((kind, subject, body), event_id)| NewEvent { event_id: *event_id, kind, subject, body })
            .collect();
        event::store::insert(tx, now, &events).await
    }
}
