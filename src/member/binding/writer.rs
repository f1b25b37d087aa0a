//! Adding, changing, releasing and taking over identifiers: one transaction each, alone, since claims can fail.
//!
//! Keys are claimed before any member is locked, and given back where the answer is no; what stands is changed after. So
//! of many who want one identifier one has it at every moment, and nobody deadlocks.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{
    super::{
        Source,
        edit::{Actor, standing},
        key::{self, Identifier},
        log::{self, Audit, Audited, Change, What},
        register::taken,
        state::Action,
        store::{self as member_store, KeyRow, MemberRow, seal},
    },
    Binding, KEYS_MAX, KeyId, MemberKeys, Place, Proof, TransferReason, bindings, store, views,
};
use crate::{
    clock::Clock,
    db::lane::{Tx, WriteError, Writer},
    event::{self, Kind as EventKind, NewEvent},
    id::{EventId, MemberId},
    member::cache::key_subject,
    problem::{Code, Refusal},
    secret::Secrets,
};

/// Event numbers that one change of identifiers may need: both members, and each key under every known version.
pub(in crate::member) const EVENTS_MAX: usize = 8;

/// What is to be done with an identifier.
#[derive(Debug, Clone)]
pub(in crate::member) enum Act {
    Add {
        identifier: Identifier,
        proof: Option<Proof>,
    },
    Change {
        /// Absent: the one of the new one's kind, or the first of them.
        replaces: Option<KeyId>,
        to: Identifier,
        proof: Option<Proof>,
    },
    Release(KeyId),
    Transfer {
        identifier: Identifier,
        proof: Proof,
        reason: TransferReason,
    },
}

#[derive(Debug)]
pub(in crate::member) struct KeyOp {
    pub(in crate::member) member_id: MemberId,
    /// [`EVENTS_MAX`] of them; the first tells whether the change stands, and numbers its row in the log.
    pub(in crate::member) events: Vec<EventId>,
    pub(in crate::member) actor: Actor,
    pub(in crate::member) act: Act,
}

/// What became of it.
#[derive(Debug, Clone)]
pub(in crate::member) struct Kept {
    pub(in crate::member) keys: MemberKeys,
    /// Keys that are remembered as somebody's and are not any more, by their names in events.
    pub(in crate::member) moved: Vec<i64>,
    /// The member that lost one.
    pub(in crate::member) other: Option<MemberId>,
}

pub(in crate::member) struct KeyWriter {
    pub(in crate::member) clock: Clock,
    pub(in crate::member) secrets: Arc<Secrets>,
}

/// A member that is locked, with its identifiers.
struct Held {
    row: MemberRow,
    bindings: Vec<Binding>,
    /// The row has to be written.
    core_changed: bool,
}

impl Writer for KeyWriter {
    type Op = KeyOp;
    type Answer = Result<Kept, Refusal>;

    const NAME: &'static str = "member_key";
    /// Claims can fail, and changes of one member's keys would have to see each other's.
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<KeyOp>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            let job = Job { secrets: &self.secrets, now: self.clock.now(), op };
            let answer = match &op.act {
                Act::Add { identifier, proof } => job.add(tx, identifier, *proof).await?,
                Act::Change { replaces, to, proof } => job.change(tx, *replaces, to, *proof).await?,
                Act::Release(key_id) => job.release(tx, *key_id).await?,
                Act::Transfer { identifier, proof, reason } => job.transfer(tx, identifier, (*proof, *reason)).await?,
            };
            answers.push(Some(answer));
        }
        Ok(answers)
    }

    /// The lock waits for a commit under way; then the event stands or does not.
    async fn look_up(&self, tx: &mut Tx<'_>, op: &KeyOp) -> Result<Option<Self::Answer>, WriteError> {
        let job = Job { secrets: &self.secrets, now: self.clock.now(), op };
        let Some(held) = job.lock(tx, op.member_id).await? else { return Ok(None) };
        if !event::store::exists(tx, op.events[0]).await? {
            return Ok(None);
        }
        Ok(Some(Ok(held.kept())))
    }

    /// The event stands, and so does what was decided.
    fn settle(&self, _: &KeyOp, decided: Self::Answer, _: Self::Answer) -> Self::Answer {
        decided
    }
}

/// One change under way.
struct Job<'a> {
    secrets: &'a Secrets,
    now: DateTime<Utc>,
    op: &'a KeyOp,
}

type Outcome = Result<Result<Kept, Refusal>, WriteError>;

impl Job<'_> {
    async fn add(&self, tx: &mut Tx<'_>, identifier: &Identifier, proof: Option<Proof>) -> Outcome {
        let claim = self.claim(tx, identifier).await?;
        let Some(mut held) = self.lock(tx, self.op.member_id).await? else {
            return self.refuse(tx, &claim, Code::MemberNotFound.into()).await;
        };
        if held.of(identifier).is_some() {
            claim.give_back(tx).await?;
            return Ok(Ok(held.kept()));
        }
        if let Err(refusal) = held.may(Action::AddKey, identifier)?.and_then(|()| held.has_room()) {
            return self.refuse(tx, &claim, refusal).await;
        }
        if let Some(row) = claim.lost.first() {
            let refusal = taken(tx, identifier, *row).await?;
            return self.refuse(tx, &claim, refusal).await;
        }
        let added = self.bind(tx, &mut held, identifier, proof.is_some()).await?;
        self.write(tx, &mut held).await?;
        let body = json!({ "kind": identifier.kind(), "key_id": added, "proof": proof });
        self.log(tx, &[(self.op.member_id, What::KeyAdded, &body)]).await?;
        self.tell(tx, &[&held], Vec::new()).await?;
        self.done(tx, held, Vec::new(), None).await
    }

    async fn change(&self, tx: &mut Tx<'_>, replaces: Option<KeyId>, to: &Identifier, proof: Option<Proof>) -> Outcome {
        let claim = self.claim(tx, to).await?;
        let Some(mut held) = self.lock(tx, self.op.member_id).await? else {
            return self.refuse(tx, &claim, Code::MemberNotFound.into()).await;
        };
        let kind = to.kind();
        let of_kind = || held.bindings.iter().filter(|one| one.identifier.kind() == kind);
        let old = match replaces {
            Some(key_id) => of_kind().find(|one| one.key_id == key_id).cloned(),
            None => of_kind().min_by_key(|one| matches!(one.place, Place::Auth(_))).cloned(),
        };
        let new = held.of(to).cloned();
        if new.is_some() && old.as_ref().is_none_or(|old| old.identifier == *to) {
            claim.give_back(tx).await?;
            return Ok(Ok(held.kept()));
        }
        if let Err(refusal) = held.may(Action::AddKey, to)?.and(held.may(Action::ReleaseKey, to)?) {
            return self.refuse(tx, &claim, refusal).await;
        }
        let Some(old) = old else {
            return self.refuse(tx, &claim, Code::MemberKeyNotFound.into()).await;
        };
        if new.is_none()
            && let Some(row) = claim.lost.first()
        {
            let refusal = taken(tx, to, *row).await?;
            return self.refuse(tx, &claim, refusal).await;
        }
        if new.is_some() {
            claim.give_back(tx).await?;
        }
        let added = self.replace(tx, &mut held, &old, new.as_ref(), to, proof.is_some()).await?;
        let moved = self.release_index(tx, &old.identifier).await?;
        self.write(tx, &mut held).await?;
        let gone = json!({ "kind": kind, "key_id": old.key_id });
        let came = json!({ "kind": kind, "key_id": added, "replaces": old.key_id, "proof": proof });
        let member_id = self.op.member_id;
        self.log(tx, &[(member_id, What::KeyReleased, &gone), (member_id, What::KeyAdded, &came)]).await?;
        self.tell(tx, &[&held], moved.clone()).await?;
        self.done(tx, held, moved, None).await
    }

    async fn release(&self, tx: &mut Tx<'_>, key_id: KeyId) -> Outcome {
        let Some(mut held) = self.lock(tx, self.op.member_id).await? else {
            return Ok(Err(Code::MemberNotFound.into()));
        };
        let standing = standing(&held.row)?;
        if let Err(refusal) = standing.may(Action::ReleaseKey) {
            return Ok(Err(refusal));
        }
        let Some(old) = held.bindings.iter().find(|one| one.key_id == key_id).cloned() else {
            return Ok(Err(Code::MemberKeyNotFound.into()));
        };
        // A virtual member stands for a thing that may have no name at all.
        if held.bindings.len() == 1 && standing.kind != crate::member::Kind::Virtual {
            return Ok(Err(Code::MemberKeyLast.into()));
        }
        self.unbind(tx, &mut held, &old).await?;
        let moved = self.release_index(tx, &old.identifier).await?;
        self.write(tx, &mut held).await?;
        let body = json!({ "kind": old.identifier.kind(), "key_id": key_id });
        self.log(tx, &[(self.op.member_id, What::KeyReleased, &body)]).await?;
        self.tell(tx, &[&held], moved.clone()).await?;
        self.done(tx, held, moved, None).await
    }

    async fn transfer(
        &self,
        tx: &mut Tx<'_>,
        identifier: &Identifier,
        (proof, reason): (Proof, TransferReason),
    ) -> Outcome {
        let member_id = self.op.member_id;
        let claim = self.claim(tx, identifier).await?;
        let holder = claim.holder(tx).await?;
        let ids: Vec<MemberId> = holder.into_iter().filter(|id| *id != member_id).chain([member_id]).collect();
        let mut rows = member_store::lock_members(tx, ids).await?;
        let Some(row) = rows.remove(&member_id) else {
            return self.refuse(tx, &claim, Code::MemberNotFound.into()).await;
        };
        let mut held = self.hold(tx, row).await?;
        if held.of(identifier).is_some() {
            claim.give_back(tx).await?;
            return Ok(Ok(held.kept()));
        }
        if let Err(refusal) = held.may(Action::TransferIn, identifier)?.and_then(|()| held.has_room()) {
            return self.refuse(tx, &claim, refusal).await;
        }
        let mut moved = Vec::new();
        let mut from = None;
        if let Some(holder) = holder {
            // It may have gone on to a third while we waited for the two.
            let row = rows.remove(&holder).ok_or(WriteError::Again("the holder of an identifier is gone"))?;
            let mut other = self.hold(tx, row).await?;
            let Some(old) = other.of(identifier).cloned() else {
                return Err(WriteError::Again("an identifier was moved meanwhile"));
            };
            if let Err(refusal) = standing(&other.row)?.may(Action::TransferOut) {
                return self.refuse(tx, &claim, refusal).await;
            }
            self.unbind(tx, &mut other, &old).await?;
            let keys = member_store::keys_known_of(self.secrets, identifier);
            moved = keys.iter().copied().map(key_subject).collect();
            store::move_keys(tx, self.now, (holder, member_id), keys).await?;
            self.write(tx, &mut other).await?;
            from = Some((other, old.key_id));
        }
        let added = self.bind(tx, &mut held, identifier, true).await?;
        self.write(tx, &mut held).await?;
        let kind = identifier.kind();
        let came = json!({ "kind": kind, "key_id": added, "from": holder, "proof": proof, "reason": reason });
        let gone = json!({ "kind": kind, "key_id": from.as_ref().map(|(_, key_id)| key_id), "to": member_id,
            "proof": proof, "reason": reason });
        let mut changes = vec![(member_id, What::KeyMovedIn, &came)];
        changes.extend(holder.map(|holder| (holder, What::KeyMovedOut, &gone)));
        self.log(tx, &changes).await?;
        let audit = Audit {
            log_id: self.op.events[0],
            subject: Some(member_id),
            what: Audited::KeyTransferred,
            actor: &self.op.actor,
            body: &came,
        };
        log::store::insert_audit(tx, self.now, &audit).await?;
        let told: Vec<&Held> = std::iter::once(&held).chain(from.as_ref().map(|(other, _)| other)).collect();
        self.tell(tx, &told, moved.clone()).await?;
        self.done(tx, held, moved, holder).await
    }

    async fn claim(&self, tx: &mut Tx<'_>, identifier: &Identifier) -> Result<Claimed, WriteError> {
        let rows: Vec<KeyRow> = member_store::keys_of(self.secrets, identifier).collect();
        let free = member_store::claim_keys(tx, self.now, self.op.member_id, rows.clone()).await?;
        let (won, lost) = rows.into_iter().partition(|row| free.contains(&row.key));
        Ok(Claimed { member_id: self.op.member_id, won, lost })
    }

    async fn lock(&self, tx: &mut Tx<'_>, member_id: MemberId) -> Result<Option<Held>, WriteError> {
        match member_store::lock_member(tx, member_id).await? {
            Some(row) => Ok(Some(self.hold(tx, row).await?)),
            None => Ok(None),
        }
    }

    async fn hold(&self, tx: &mut Tx<'_>, row: MemberRow) -> Result<Held, WriteError> {
        let auths = store::find_auths(tx, row.member_id).await?;
        let bindings = bindings(self.secrets, &row, &auths).map_err(WriteError::Inconsistent)?;
        Ok(Held { row, bindings, core_changed: false })
    }

    /// Says no, and gives back what was claimed for it.
    async fn refuse(&self, tx: &mut Tx<'_>, claim: &Claimed, refusal: Refusal) -> Outcome {
        claim.give_back(tx).await?;
        Ok(Err(refusal))
    }

    /// Writes an identifier whose keys are the member's to where its kind belongs.
    async fn bind(
        &self,
        tx: &mut Tx<'_>,
        held: &mut Held,
        identifier: &Identifier,
        proved: bool,
    ) -> Result<KeyId, WriteError> {
        let verified_at = proved.then_some(self.now);
        if held.has_free_column(identifier.kind()) {
            held.set_column(self.secrets, identifier.kind(), Some((identifier, self.now, verified_at)));
        } else {
            let source = if self.op.actor.store_no.is_some() { Source::Store } else { Source::Unknown };
            let member_id = held.row.member_id;
            store::insert_auth(tx, self.secrets, member_id, identifier, self.now, verified_at, source).await?;
        }
        Ok(KeyId::of(self.secrets, held.row.member_id, identifier))
    }

    /// Takes an identifier from where it stands. The next oldest of its kind takes the column's place.
    async fn unbind(&self, tx: &mut Tx<'_>, held: &mut Held, old: &Binding) -> Result<(), WriteError> {
        let kind = old.identifier.kind();
        match old.place {
            Place::Auth(key) => store::delete_auths(tx, held.row.member_id, vec![key]).await,
            Place::Phone | Place::Email => {
                let next = held
                    .bindings
                    .iter()
                    .find(|one| one.identifier.kind() == kind && matches!(one.place, Place::Auth(_)));
                let next = next.cloned();
                self.put_in_column(tx, held, kind, next.as_ref()).await
            }
        }
    }

    /// Moves an identifier of the member from `member_auth` to its column, or clears that.
    async fn put_in_column(
        &self,
        tx: &mut Tx<'_>,
        held: &mut Held,
        kind: key::Kind,
        next: Option<&Binding>,
    ) -> Result<(), WriteError> {
        held.set_column(self.secrets, kind, next.map(|next| (&next.identifier, next.bound_at, next.verified_at)));
        match next.map(|next| next.place) {
            Some(Place::Auth(key)) => store::delete_auths(tx, held.row.member_id, vec![key]).await,
            _ => Ok(()),
        }
    }

    /// Puts the new identifier where the old one was. `new` is it, where the member has it already.
    async fn replace(
        &self,
        tx: &mut Tx<'_>,
        held: &mut Held,
        old: &Binding,
        new: Option<&Binding>,
        to: &Identifier,
        proved: bool,
    ) -> Result<KeyId, WriteError> {
        let in_column = !matches!(old.place, Place::Auth(_));
        match new {
            Some(new) if in_column => self.put_in_column(tx, held, to.kind(), Some(new)).await?,
            Some(_) => self.unbind(tx, held, old).await?,
            None if in_column => {
                held.set_column(self.secrets, to.kind(), Some((to, self.now, proved.then_some(self.now))));
            }
            None => {
                self.unbind(tx, held, old).await?;
                return self.bind(tx, held, to, proved).await;
            }
        }
        Ok(KeyId::of(self.secrets, held.row.member_id, to))
    }

    /// Deletes the rows of an identifier in the index. Gives what caches call them.
    async fn release_index(&self, tx: &mut Tx<'_>, identifier: &Identifier) -> Result<Vec<i64>, WriteError> {
        let keys = member_store::keys_known_of(self.secrets, identifier);
        let subjects = keys.iter().copied().map(key_subject).collect();
        store::release_keys(tx, self.op.member_id, keys).await?;
        Ok(subjects)
    }

    async fn write(&self, tx: &mut Tx<'_>, held: &mut Held) -> Result<(), WriteError> {
        if held.core_changed {
            held.row.updated_at = self.now;
            member_store::update_member(tx, &mut held.row).await?;
        }
        Ok(())
    }

    async fn log(&self, tx: &mut Tx<'_>, changes: &[(MemberId, What, &Value)]) -> Result<(), WriteError> {
        for ((member_id, what, body), log_id) in changes.iter().zip(&self.op.events) {
            let change = Change { log_id: *log_id, member_id: *member_id, what: *what, actor: &self.op.actor, body };
            log::store::insert_change(tx, self.now, &change).await?;
        }
        Ok(())
    }

    /// Events for the members and for what caches know of the keys.
    async fn tell(&self, tx: &mut Tx<'_>, members: &[&Held], moved: Vec<i64>) -> Result<(), WriteError> {
        let of_member = |held: &&Held| {
            let kind = if held.core_changed { EventKind::MemberChanged } else { EventKind::MemberDetailChanged };
            (kind, held.row.member_id.get(), json!({ "version": held.row.version, "fields": ["keys"] }))
        };
        let of_key = |subject| (EventKind::MemberKeyMoved, subject, json!({ "member_id": self.op.member_id }));
        let told: Vec<_> = members.iter().map(of_member).chain(moved.into_iter().map(of_key)).collect();
        if told.len() > self.op.events.len() {
            return Err(WriteError::Inconsistent("a change of identifiers has too many events".to_owned()));
        }
        let event = |((kind, subject, body), event_id): ((EventKind, i64, Value), &EventId)| NewEvent {
            event_id: *event_id,
            kind,
            subject,
            body,
        };
        let events: Vec<NewEvent> = told.into_iter().zip(&self.op.events).map(event).collect();
        event::store::insert(tx, self.now, &events).await
    }

    /// Reads back what was written: the answer cannot show what a later look would not.
    async fn done(&self, tx: &mut Tx<'_>, held: Held, moved: Vec<i64>, other: Option<MemberId>) -> Outcome {
        let held = self.hold(tx, held.row).await?;
        Ok(Ok(Kept { moved, other, ..held.kept() }))
    }
}

/// What became of a claim.
struct Claimed {
    member_id: MemberId,
    won: Vec<KeyRow>,
    lost: Vec<KeyRow>,
}

impl Claimed {
    async fn give_back(&self, tx: &mut Tx<'_>) -> Result<(), WriteError> {
        if self.won.is_empty() {
            return Ok(());
        }
        member_store::delete_keys(tx, self.member_id, self.won.iter().map(|row| row.key).collect()).await
    }

    /// Who had the identifier before.
    async fn holder(&self, tx: &mut Tx<'_>) -> Result<Option<MemberId>, WriteError> {
        if self.lost.is_empty() {
            return Ok(None);
        }
        let found = member_store::find_keys(tx, self.lost.iter().map(|row| row.key).collect()).await?;
        let mut holders: Vec<MemberId> = found.into_values().collect();
        holders.sort_unstable();
        holders.dedup();
        match holders[..] {
            [holder] => Ok(Some(holder)),
            // Released, or moved between two statements that saw different rows.
            _ => Err(WriteError::Again("an identifier that was taken is free now")),
        }
    }
}

impl Held {
    fn of(&self, identifier: &Identifier) -> Option<&Binding> {
        self.bindings.iter().find(|one| one.identifier == *identifier)
    }

    fn kept(&self) -> Kept {
        Kept { keys: views(&self.bindings), moved: Vec::new(), other: None }
    }

    fn may(&self, action: Action, identifier: &Identifier) -> Result<Result<(), Refusal>, WriteError> {
        let standing = standing(&self.row)?;
        let identify = if identifier.kind().identifies_a_person() { standing.may(Action::Identify) } else { Ok(()) };
        Ok(standing.may(action).and(identify))
    }

    fn has_room(&self) -> Result<(), Refusal> {
        if self.bindings.len() < KEYS_MAX {
            return Ok(());
        }
        Err(Refusal::new(Code::MemberKeysFull).with("limit", KEYS_MAX))
    }

    fn has_free_column(&self, kind: key::Kind) -> bool {
        match kind {
            key::Kind::Phone => self.row.phone.is_none(),
            key::Kind::Email => self.row.email.is_none(),
            _ => false,
        }
    }

    /// Puts an identifier, with its time and when it was proved, in the column of its kind.
    fn set_column(&mut self, secrets: &Secrets, kind: key::Kind, to: Option<InColumn<'_>>) {
        let row = &mut self.row;
        let (column, sealed, bound_at, verified_at) = match kind {
            key::Kind::Phone => ("phone", &mut row.phone, &mut row.phone_bound_at, &mut row.phone_verified_at),
            key::Kind::Email => ("email", &mut row.email, &mut row.email_bound_at, &mut row.email_verified_at),
            _ => return,
        };
        *sealed = to.map(|(identifier, ..)| seal(secrets, column, row.member_id, identifier.normalised()));
        *bound_at = to.map(|(_, at, _)| at);
        *verified_at = to.and_then(|(.., at)| at);
        self.core_changed = true;
    }
}

/// An identifier in a column of the core row, since when, and when it was proved.
type InColumn<'a> = (&'a Identifier, DateTime<Utc>, Option<DateTime<Utc>>);
