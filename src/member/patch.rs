//! Changing a member: the row is locked, compared with the version that the caller has seen, and written back whole.

use std::sync::Arc;

use chrono::NaiveDate;
use serde_json::json;

use super::{
    Gender, HomeStore, Member, State,
    cache::MemberBook,
    store::{self, MemberRow, seal},
};
use crate::{
    chain::names::StoreNames,
    clock::Clock,
    db::lane::{Cost, LaneError, Tx, WriteError, Writer, WriterHandle},
    event::{self, Kind as EventKind, NewEvent},
    id::{EventId, MemberId},
    problem::{Code, Refusal},
    secret::Secrets,
};

/// One change of one member.
#[derive(Debug)]
pub struct Patch {
    pub member_id: MemberId,
    /// Also tells, should the answer to COMMIT be lost, whether the change stands.
    pub event_id: EventId,
    /// Versions that the caller has seen; `None` is any.
    pub versions: Option<Vec<i64>>,
    pub change: Change,
}

/// What to change; what is `None` stays, and `Some(None)` clears.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Change {
    pub name: Option<Option<String>>,
    pub nickname: Option<Option<String>>,
    pub signature: Option<Option<String>>,
    pub gender: Option<Gender>,
    pub birthday: Option<Option<NaiveDate>>,
    pub home_store: Option<Option<HomeStore>>,
    /// Normal or frozen. Cancelling is another operation.
    pub state: Option<State>,
}

impl std::fmt::Debug for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.fields()).finish()
    }
}

impl Change {
    /// Names of what is to change.
    pub fn fields(&self) -> impl Iterator<Item = &'static str> {
        [
            ("name", self.name.is_some()),
            ("nickname", self.nickname.is_some()),
            ("signature", self.signature.is_some()),
            ("gender", self.gender.is_some()),
            ("birthday", self.birthday.is_some()),
            ("store_id", self.home_store.is_some()),
            ("state", self.state.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, changes)| changes.then_some(name))
    }

    fn apply(&self, secrets: &Secrets, row: &mut MemberRow) {
        let member_id = row.member_id;
        if let Some(name) = &self.name {
            row.name = name.as_deref().map(|name| seal(secrets, "name", member_id, name));
        }
        if let Some(birthday) = self.birthday {
            row.birthday = birthday.map(|day| seal(secrets, "birthday", member_id, &day.to_string()));
        }
        if let Some(nickname) = &self.nickname {
            row.nickname.clone_from(nickname);
        }
        if let Some(signature) = &self.signature {
            row.signature.clone_from(signature);
        }
        if let Some(gender) = self.gender {
            row.gender = gender.number();
        }
        if let Some(home_store) = &self.home_store {
            row.home_store_no = home_store.as_ref().map(|store| store.store_no);
        }
        if let Some(state) = self.state {
            row.state = state.number();
        }
    }
}

pub struct PatchWriter {
    pub clock: Clock,
    pub secrets: Arc<Secrets>,
    pub stores: StoreNames,
}

/// Changes a member and makes this node forget what it remembers of it, also when the caller goes away meanwhile.
///
/// # Errors
/// [`LaneError`]; the inner error is the refusal.
pub async fn change(
    writer: &WriterHandle<PatchWriter>,
    book: &MemberBook,
    patch: Patch,
) -> Result<(Result<Member, Refusal>, Cost), LaneError> {
    let (writer, book) = (writer.clone(), book.clone());
    let changing = tokio::spawn(async move {
        let member_id = patch.member_id;
        let outcome = writer.write(patch).await;
        // After an error too: COMMIT may have gone through.
        book.forget(member_id).await;
        outcome
    });
    changing.await.unwrap_or(Err(LaneError::Panicked))
}

impl Writer for PatchWriter {
    type Op = Patch;
    type Answer = Result<Member, Refusal>;

    const NAME: &'static str = "member_patch";
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<Patch>]) -> Result<Vec<Self::Answer>, WriteError> {
        let mut answers = Vec::with_capacity(ops.len());
        for op in ops {
            answers.push(self.patch(tx, op).await?);
        }
        Ok(answers)
    }

    /// The lock waits for a commit under way; then the event stands or does not. What is given is the member as it is
    /// now, which may have been changed again since.
    async fn look_up(&self, tx: &mut Tx<'_>, op: &Patch) -> Result<Option<Self::Answer>, WriteError> {
        let Some(row) = store::lock_member(tx, op.member_id).await? else { return Ok(None) };
        if !event::store::exists(tx, op.event_id).await? {
            return Ok(None);
        }
        Ok(Some(Ok(self.show(tx, &row).await?)))
    }
}

impl PatchWriter {
    async fn patch(&self, tx: &mut Tx<'_>, op: &Patch) -> Result<Result<Member, Refusal>, WriteError> {
        let Some(mut row) = store::lock_member(tx, op.member_id).await? else {
            return Ok(Err(Code::MemberNotFound.into()));
        };
        if let Err(refusal) = check(&row, op) {
            return Ok(Err(refusal));
        }
        if op.change.fields().next().is_none() {
            return Ok(Ok(self.show(tx, &row).await?));
        }
        let now = self.clock.now();
        op.change.apply(&self.secrets, &mut row);
        row.updated_at = now;
        store::update_member(tx, &mut row).await?;
        let fields: Vec<&str> = op.change.fields().collect();
        let changed = NewEvent {
            event_id: op.event_id,
            kind: EventKind::MemberChanged,
            subject: op.member_id.get(),
            body: json!({ "version": row.version, "fields": fields, "state": op.change.state }),
        };
        event::store::insert(tx, now, &[changed]).await?;
        Ok(Ok(self.show(tx, &row).await?))
    }

    async fn show(&self, tx: &mut Tx<'_>, row: &MemberRow) -> Result<Member, WriteError> {
        let store_id = store::store_name(tx, &self.stores, row.home_store_no).await?;
        row.show(&self.secrets, store_id).map_err(WriteError::Inconsistent)
    }
}

fn check(row: &MemberRow, op: &Patch) -> Result<(), Refusal> {
    if op.versions.as_ref().is_some_and(|seen| !seen.contains(&row.version.into())) {
        return Err(Refusal::new(Code::PreconditionFailed).with("version", row.version));
    }
    if row.state == State::Cancelled.number() {
        return Err(Code::MemberCancelled.into());
    }
    Ok(())
}
