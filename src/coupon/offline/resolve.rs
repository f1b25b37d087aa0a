//! Deciding who bears a conflict. It may be decided anew; each decision is audited.

use std::sync::Arc;

use serde_json::json;

use super::{Conflict, How, Resolution, store};
use crate::{
    clock::Clock,
    coupon::desk::{Desk, DeskError},
    db::lane::{Cost, Tx, WriteError, Writer},
    event::{self, Kind, NewEvent},
    id::{Day, EventId, RedemptionId},
    member::{
        edit::Actor,
        log::{self, Audit, Audited},
    },
    problem::{Code, Refusal},
};

/// A decision on its way through the lane.
#[derive(Debug)]
pub struct Resolve {
    pub conflict_id: RedemptionId,
    /// The versions that its sender has seen; `None` is any.
    pub versions: Option<Vec<i64>>,
    /// Of the event, and of the row of the audit.
    pub event_id: EventId,
    pub how: How,
    pub note: String,
    pub actor: Actor,
}

pub struct ResolveWriter {
    pub clock: Clock,
}

impl Writer for ResolveWriter {
    type Op = Resolve;
    type Answer = Result<Conflict, Refusal>;

    const NAME: &'static str = "resolve";
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<Resolve>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(Some(self.resolve(tx, op).await?));
        }
        Ok(answers)
    }

    /// Its event stands if it was committed; what the row says then is the answer.
    async fn look_up(&self, tx: &mut Tx<'_>, op: &Resolve) -> Result<Option<Self::Answer>, WriteError> {
        // Waits for a commit under way, which holds the row.
        let row = store::lock_conflict(tx, op.conflict_id).await?;
        if !event::store::exists(tx, op.event_id).await? {
            return Ok(None);
        }
        Ok(row.map(Ok))
    }
}

impl ResolveWriter {
    async fn resolve(&self, tx: &mut Tx<'_>, op: &Resolve) -> Result<Result<Conflict, Refusal>, WriteError> {
        let Some(before) = store::lock_conflict(tx, op.conflict_id).await? else {
            return Ok(Err(Code::ConflictNotFound.into()));
        };
        let same = |standing: &Resolution| (standing.how, standing.note.as_str()) == (op.how, op.note.as_str());
        if before.resolution.as_ref().is_some_and(same) {
            return Ok(Ok(before));
        }
        if op.versions.as_ref().is_some_and(|seen| !seen.contains(&before.version.into())) {
            return Ok(Err(Code::PreconditionFailed.into()));
        }
        let now = self.clock.now();
        let resolution = Resolution { how: op.how, at: now, by: op.actor.name.to_string(), note: op.note.clone() };
        let was = before.resolution.as_ref().map(|standing| standing.how);
        let after = Conflict { version: before.version + 1, resolution: Some(resolution), ..before };
        store::update_resolution(tx, &after).await?;
        let body = json!({"conflict_id": op.conflict_id, "how": op.how, "was": was, "version": after.version});
        let audit = Audit {
            log_id: op.event_id,
            subject: after.member_id,
            what: Audited::ConflictResolved,
            actor: &op.actor,
            body: &body,
        };
        log::store::insert_audit(tx, now, &audit).await?;
        let event = NewEvent {
            event_id: op.event_id,
            kind: Kind::ConflictResolved,
            subject: op.conflict_id.get(),
            body: json!({"conflict_id": op.conflict_id, "how": op.how}),
        };
        event::store::insert(tx, now, &[event]).await?;
        Ok(Ok(after))
    }
}

impl Desk {
    /// Decides who bears a conflict. The same decision again changes nothing, whatever version was seen.
    ///
    /// # Errors
    /// [`DeskError`]; inside, `conflict_not_found`, `precondition_failed`.
    pub async fn resolve_conflict(
        &self,
        conflict_id: RedemptionId,
        versions: Option<Vec<i64>>,
        (how, note): (How, String),
        actor: Actor,
    ) -> Result<(Result<Conflict, Refusal>, Cost), DeskError> {
        let today = Day::from_date(self.clock.now().date_naive());
        let event_id = EventId::from_parts(today, self.events.next_one().await?)?;
        Ok(self.resolver.write(Resolve { conflict_id, versions, event_id, how, note, actor }).await?)
    }
}
