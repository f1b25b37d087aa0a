//! Changes of what belongs to one member, one mechanism for all of them.
//!
//! An [`Edit`] says what it is called, what it needs to be allowed and what it does. The rest is done here, in one
//! transaction: the member's row is locked, so that edits of one member follow each other; an erased one is not edited
//! (`member_erased`); state and kind are asked whether they allow it ([`super::state`]); the edit reads and writes its own table; what changed goes to `change_log`
//! and to the events. An edit that changes nothing leaves no trace. Should the answer to COMMIT be lost, the event tells
//! whether the edit stands.
//!
//! A new table of the family needs its migration, its plan and a file with its edits; nothing here knows of them.
//!
//! Edits that claim identifiers are not of this kind: they lock `member_key` before the member (see [`super::store`]).

use std::{any::Any, fmt::Debug, sync::Arc};

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::{
    Member, Standing,
    cache::MemberBook,
    log::{self, Change, What},
    state::Action,
    store::{self, MemberRow},
};
use crate::{
    chain::names::StoreNames,
    clock::Clock,
    db::lane::{Cost, LaneError, Tx, WriteError, Writer, WriterHandle},
    event::{self, Kind as EventKind, NewEvent},
    id::{EventId, MemberId, StoreNo},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// Who asks for a change, as logs name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The name of the API key.
    pub name: Arc<str>,
    /// A till's store.
    pub store_no: Option<StoreNo>,
}

/// What became of an edit that was allowed.
#[derive(Debug, Clone)]
pub struct Edited<D> {
    pub done: D,
    /// `None`: everything was so already, and nothing is logged or told.
    pub trace: Option<Trace>,
}

/// What logs and other nodes are told. No personal data: names of fields, ids, numbers of states.
#[derive(Debug, Clone)]
pub struct Trace {
    pub body: Value,
    /// [`EventKind::MemberChanged`] when what [`Member`] shows changed, else [`EventKind::MemberDetailChanged`].
    pub event: EventKind,
}

impl<D> Edited<D> {
    pub fn nothing(done: D) -> Self {
        Self { done, trace: None }
    }

    /// The core row changed: every node forgets it.
    pub fn core(done: D, body: Value) -> Self {
        Self { done, trace: Some(Trace { body, event: EventKind::MemberChanged }) }
    }

    /// Something beside the core row changed.
    pub fn detail(done: D, body: Value) -> Self {
        Self { done, trace: Some(Trace { body, event: EventKind::MemberDetailChanged }) }
    }
}

/// A change of what belongs to one member. May be run more than once: no effects outside the transaction.
pub trait Edit: Debug + Send + Sync + 'static {
    /// What the caller gets.
    type Done: Clone + Send + Sync + 'static;

    /// Under which number it stands in `change_log`.
    const WHAT: What;
    /// What the member's state and kind must allow.
    const ACTION: Action;

    /// Versions of the member that the caller has seen; `None` is any.
    fn versions(&self) -> Option<&[i64]> {
        None
    }

    /// Whether it changes what others see, which [`Action::Publish`] must allow besides.
    fn publishes(&self) -> bool {
        false
    }

    /// [`Edit::WHAT`], unless that depends on what is edited.
    fn what(&self) -> What {
        Self::WHAT
    }

    /// [`Edit::ACTION`] and [`Action::Publish`] for what publishes, unless what must be allowed depends on what is edited.
    fn actions(&self) -> Vec<Action> {
        let published = self.publishes().then_some(Action::Publish);
        std::iter::once(Self::ACTION).chain(published).collect()
    }

    /// Reads, decides and writes. The member exists, is locked and may be edited so.
    fn apply(
        &self,
        on: &mut Editing<'_, '_>,
    ) -> impl Future<Output = Result<Result<Edited<Self::Done>, Refusal>, WriteError>> + Send;

    /// What the caller gets when the edit stands but its answer was lost: things as they are now.
    fn read(&self, on: &mut Editing<'_, '_>) -> impl Future<Output = Result<Self::Done, WriteError>> + Send;
}

/// What an edit works on.
pub struct Editing<'e, 'c> {
    pub tx: &'e mut Tx<'c>,
    /// The member's row, locked.
    pub(super) row: MemberRow,
    pub now: DateTime<Utc>,
    pub secrets: &'e Secrets,
    pub stores: &'e StoreNames,
    pub actor: &'e Actor,
    /// An id of the minter that nobody else has, for a row to be.
    pub minted: i64,
}

impl Editing<'_, '_> {
    pub fn member_id(&self) -> MemberId {
        self.row.member_id
    }

    /// Writes the member's row back with its next version.
    pub(super) async fn update_member(&mut self) -> Result<(), WriteError> {
        self.row.updated_at = self.now;
        store::update_member(self.tx, &mut self.row).await
    }

    /// The member as answers show it.
    pub(super) async fn show(&mut self) -> Result<Member, WriteError> {
        let store_id = store::store_name(self.tx, self.stores, self.row.home_store_no).await?;
        self.row.show(self.secrets, store_id).map_err(WriteError::Inconsistent)
    }
}

type Done = Arc<dyn Any + Send + Sync>;

/// An [`Edit`] whose type is known to the caller alone, so that one writer serves all of them.
trait AnyEdit: Debug + Send + Sync {
    fn what(&self) -> What;
    fn actions(&self) -> Vec<Action>;
    fn versions(&self) -> Option<&[i64]>;
    fn apply<'e>(
        &'e self,
        on: &'e mut Editing<'_, '_>,
    ) -> BoxFuture<'e, Result<Result<Edited<Done>, Refusal>, WriteError>>;
    fn read<'e>(&'e self, on: &'e mut Editing<'_, '_>) -> BoxFuture<'e, Result<Done, WriteError>>;
}

impl<E: Edit> AnyEdit for E {
    fn what(&self) -> What {
        Edit::what(self)
    }

    fn actions(&self) -> Vec<Action> {
        Edit::actions(self)
    }

    fn versions(&self) -> Option<&[i64]> {
        Edit::versions(self)
    }

    fn apply<'e>(
        &'e self,
        on: &'e mut Editing<'_, '_>,
    ) -> BoxFuture<'e, Result<Result<Edited<Done>, Refusal>, WriteError>> {
        Box::pin(async move {
            let edited = Edit::apply(self, on).await?;
            Ok(edited.map(|edited| Edited { done: Arc::new(edited.done) as Done, trace: edited.trace }))
        })
    }

    fn read<'e>(&'e self, on: &'e mut Editing<'_, '_>) -> BoxFuture<'e, Result<Done, WriteError>> {
        Box::pin(async move { Ok(Arc::new(Edit::read(self, on).await?) as Done) })
    }
}

/// One edit on its way through the lane.
#[derive(Debug)]
pub struct EditOp {
    member_id: MemberId,
    /// Also the number of the row in `change_log`.
    event_id: EventId,
    minted: i64,
    actor: Actor,
    edit: Box<dyn AnyEdit>,
}

pub struct EditWriter {
    pub clock: Clock,
    pub secrets: Arc<Secrets>,
    pub stores: StoreNames,
}

impl Writer for EditWriter {
    type Op = EditOp;
    type Answer = Result<Done, Refusal>;

    const NAME: &'static str = "member_edit";
    /// Edits of one member would have to see each other's; and they wait for nobody but their member.
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<EditOp>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(Some(self.edit(tx, op).await?));
        }
        Ok(answers)
    }

    /// The lock waits for a commit under way; then the event stands or does not.
    async fn look_up(&self, tx: &mut Tx<'_>, op: &EditOp) -> Result<Option<Self::Answer>, WriteError> {
        let Some(row) = store::lock_member(tx, op.member_id).await? else { return Ok(None) };
        if !event::store::exists(tx, op.event_id).await? {
            return Ok(None);
        }
        let mut on = self.editing(tx, row, op);
        Ok(Some(Ok(op.edit.read(&mut on).await?)))
    }
}

impl EditWriter {
    fn editing<'e, 'c>(&'e self, tx: &'e mut Tx<'c>, row: MemberRow, op: &'e EditOp) -> Editing<'e, 'c> {
        Editing {
            tx,
            row,
            now: self.clock.now(),
            secrets: &self.secrets,
            stores: &self.stores,
            actor: &op.actor,
            minted: op.minted,
        }
    }

    async fn edit(&self, tx: &mut Tx<'_>, op: &EditOp) -> Result<Result<Done, Refusal>, WriteError> {
        let Some(row) = store::lock_member(tx, op.member_id).await? else {
            return Ok(Err(Code::MemberNotFound.into()));
        };
        if op.edit.versions().is_some_and(|seen| !seen.contains(&row.version.into())) {
            return Ok(Err(Refusal::new(Code::PreconditionFailed).with("version", row.version)));
        }
        // Nothing of a person comes back, and nothing new is said of nobody.
        if row.erased_at.is_some() {
            return Ok(Err(Code::MemberErased.into()));
        }
        let standing = standing(&row)?;
        if let Err(refusal) = op.edit.actions().into_iter().try_for_each(|action| standing.may(action)) {
            return Ok(Err(refusal));
        }
        let mut on = self.editing(tx, row, op);
        let edited = match op.edit.apply(&mut on).await? {
            Ok(edited) => edited,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let now = on.now;
        if let Some(trace) = edited.trace {
            let change = Change {
                log_id: op.event_id,
                member_id: op.member_id,
                what: op.edit.what(),
                actor: &op.actor,
                body: &trace.body,
            };
            log::store::insert_change(tx, now, &change).await?;
            let told =
                NewEvent { event_id: op.event_id, kind: trace.event, subject: op.member_id.get(), body: trace.body };
            event::store::insert(tx, now, &[told]).await?;
        }
        Ok(Ok(edited.done))
    }
}

/// What decides over a member, from its row.
pub(super) fn standing(row: &MemberRow) -> Result<Standing, WriteError> {
    Standing::from_numbers(row.member_id, row.state, row.kind, row.muted).map_err(WriteError::Inconsistent)
}

/// An edit with what it needs besides its own.
pub(super) struct Order<E> {
    pub(super) member_id: MemberId,
    pub(super) event_id: EventId,
    pub(super) minted: i64,
    pub(super) actor: Actor,
    pub(super) edit: E,
}

/// Runs an edit and makes this node forget what it remembers of the member, also when the caller goes away meanwhile.
///
/// # Errors
/// [`LaneError`]; the inner error is the refusal.
pub(super) async fn run<E: Edit>(
    writer: &WriterHandle<EditWriter>,
    book: &MemberBook,
    order: Order<E>,
) -> Result<(Result<E::Done, Refusal>, Cost), LaneError> {
    let (writer, book) = (writer.clone(), book.clone());
    let Order { member_id, event_id, minted, actor, edit } = order;
    let editing = tokio::spawn(async move {
        let outcome = writer.write(EditOp { member_id, event_id, minted, actor, edit: Box::new(edit) }).await;
        // After an error too: COMMIT may have gone through.
        book.forget(member_id).await;
        outcome
    });
    let (answer, cost) = editing.await.unwrap_or(Err(LaneError::Panicked))?;
    let done = answer.map(|done| done.downcast_ref::<E::Done>().expect("an edit answers with its own Done").clone());
    Ok((done, cost))
}
