//! The operations of members for whoever calls: a handler, a job, a bench, a test. Plain values in, answers out.

use std::{collections::HashMap, sync::Arc};

use super::{
    Member, NewMember,
    binding::{
        self, KeyId, MemberKeys, Proof, TransferReason,
        store::FindAuths,
        verify::Verify,
        writer::{self, Act, Kept, KeyOp, KeyWriter},
    },
    cache::{MemberBook, Shown, key_subject},
    edit::{self, Actor, Edit, EditWriter, Order},
    erase::{
        self, EraseReason, Erased,
        writer::{EraseOp, EraseWriter},
    },
    export::{
        Person,
        writer::{ExportOp, ExportWriter},
    },
    family::Family,
    key::Identifier,
    mask::View,
    patch::{Change, Patch},
    register::{self, Made, Register, RegisterWriter, Registered},
    reveal::{Reveal, RevealWriter, Revealed},
    store::{self, FindMember},
};
use crate::{
    chain::names::StoreNames,
    clock::Clock,
    db::lane::{Cost, Lane, LaneError, Reader, WriterHandle},
    id::{BlockError, Counter, Day, EventId, IdError, MemberId, MemberIdMinter, MintError},
    problem::Refusal,
    request::{
        RequestNumber,
        store::{Answer, Ticket},
    },
    secret::Secrets,
};

/// Why an operation has no answer.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("the lane gave no answer")]
    Lane(#[from] LaneError),
    #[error("no member id could be minted")]
    Mint(#[from] MintError),
    #[error("no number could be had")]
    Numbers(#[from] BlockError),
    #[error("an id could not be made")]
    Id(#[from] IdError),
}

/// Everything that members are done with. Cheap to clone.
#[derive(Clone)]
pub struct MemberDesk {
    /// For the tail, which makes it forget.
    pub book: MemberBook,
    /// What belongs to members beside the core row.
    pub family: Family,
    pub clock: Clock,
    secrets: Arc<Secrets>,
    minter: Arc<MemberIdMinter>,
    events: Counter,
    register: WriterHandle<RegisterWriter>,
    edit: WriterHandle<EditWriter>,
    reveal: WriterHandle<RevealWriter>,
    key_writer: WriterHandle<KeyWriter>,
    erase: WriterHandle<EraseWriter>,
    export: WriterHandle<ExportWriter>,
    find_member: Reader<FindMember>,
    find_auths: Reader<FindAuths>,
}

impl MemberDesk {
    /// `events` is the counter `event` of `id_block`, of which a process has one.
    pub fn new(
        lane: &Lane,
        clock: Clock,
        secrets: Arc<Secrets>,
        stores: StoreNames,
        minter: Arc<MemberIdMinter>,
        events: Counter,
        book: MemberBook,
    ) -> Self {
        let register = RegisterWriter { clock: clock.clone(), secrets: Arc::clone(&secrets), stores: stores.clone() };
        let edit = EditWriter { clock: clock.clone(), secrets: Arc::clone(&secrets), stores: stores.clone() };
        let key_writer = KeyWriter { clock: clock.clone(), secrets: Arc::clone(&secrets) };
        let erase = EraseWriter { clock: clock.clone(), secrets: Arc::clone(&secrets) };
        let export = ExportWriter { clock: clock.clone(), secrets: Arc::clone(&secrets), stores: stores.clone() };
        let reveal = RevealWriter { clock: clock.clone(), secrets: Arc::clone(&secrets) };
        Self {
            erase: lane.writer(erase),
            export: lane.writer(export),
            key_writer: lane.writer(key_writer),
            find_member: lane.reader(FindMember { stores: stores.clone() }),
            find_auths: lane.reader(FindAuths),
            reveal: lane.writer(reveal),
            book,
            family: Family::new(lane, Arc::clone(&secrets)),
            clock,
            secrets,
            minter,
            events,
            register: lane.writer(register),
            edit: lane.writer(edit),
        }
    }

    /// Registers a member. The answer is 201 with a [`Member`], or a decided refusal.
    ///
    /// # Errors
    /// [`MemberError`]
    pub async fn register(
        &self,
        actor: Actor,
        number: Option<RequestNumber>,
        new: NewMember,
    ) -> Result<(Answer, Cost), MemberError> {
        self.register_unless(actor, number, new, None).await
    }

    /// As [`Self::register`]; with a refusal that was found before it came here, such as that the store is closed, it is
    /// the answer, unless something was answered under the number before.
    ///
    /// # Errors
    /// [`MemberError`]
    pub async fn register_unless(
        &self,
        actor: Actor,
        number: Option<RequestNumber>,
        new: NewMember,
        refusal: Option<Refusal>,
    ) -> Result<(Answer, Cost), MemberError> {
        let ticket = number.map(|number| Ticket { number, digest: register::digest(&self.secrets, &new) });
        let (member_id, event_id) = (self.minter.mint()?, self.event_id().await?);
        let op = Register { ticket, member_id, event_id, actor, new, refusal };
        let (Registered { answer, member }, mut cost) = self.register.write(op).await?;
        let answer = match member {
            Some(member) => Answer::decided(answer.status, Ok(member)),
            None => self.show(answer, &mut cost).await?,
        };
        Ok((answer, cost))
    }

    /// A stored answer of a registration with the member as it is now; a refusal as it is.
    ///
    /// # Errors
    /// [`MemberError::Lane`].
    pub async fn show(&self, stored: Answer, cost: &mut Cost) -> Result<Answer, MemberError> {
        if stored.status >= 400 {
            return Ok(stored);
        }
        let inconsistent =
            |what: &str| LaneError::Inconsistent(format!("request.answer of a registration {what}").into());
        let made: Made = serde_json::from_str(&stored.body).map_err(|_| inconsistent("names no member"))?;
        let (found, spent) = self.book.find(made.member_id).await?;
        *cost += spent;
        let shown = found.ok_or_else(|| inconsistent("names a member that is not there"))?;
        let body = String::from_utf8_lossy(shown.seen(View::Service)).into_owned();
        Ok(Answer { body: body.into(), ..stored })
    }

    /// Changes a member, if it has one of these versions. Every node shows the change within the stated bound.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn change(
        &self,
        actor: Actor,
        member_id: MemberId,
        versions: Option<Vec<i64>>,
        change: Change,
    ) -> Result<(Result<Member, Refusal>, Cost), MemberError> {
        self.edit(actor, member_id, Patch { versions, change }).await
    }

    /// Changes something of a member.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal, `member_not_found` among them.
    pub async fn edit<E: Edit>(
        &self,
        actor: Actor,
        member_id: MemberId,
        edit: E,
    ) -> Result<(Result<E::Done, Refusal>, Cost), MemberError> {
        let (event_id, minted) = (self.event_id().await?, self.minter.mint_raw()?);
        Ok(edit::run(&self.edit, &self.book, Order { member_id, event_id, minted, actor, edit }).await?)
    }

    /// The identifiers of a member, as they stand in the database.
    ///
    /// # Errors
    /// [`MemberError::Lane`].
    pub async fn keys(&self, member_id: MemberId) -> Result<(Option<MemberKeys>, Cost), MemberError> {
        let (row, mut cost) = self.find_member.find(member_id).await?;
        let Some((row, _)) = row else { return Ok((None, cost)) };
        let (auths, spent) = self.find_auths.find(member_id).await?;
        cost += spent;
        let held = binding::bindings(&self.secrets, &row, &auths.unwrap_or_default());
        let held = held.map_err(|what| LaneError::Inconsistent(what.into()))?;
        Ok((Some(binding::views(&held)), cost))
    }

    /// Adds an identifier to a member. What it has already is not added again.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn add_key(
        &self,
        actor: Actor,
        member_id: MemberId,
        identifier: Identifier,
        proof: Option<Proof>,
    ) -> Result<(Result<MemberKeys, Refusal>, Cost), MemberError> {
        self.write_key(actor, member_id, Act::Add { identifier, proof }).await
    }

    /// Replaces an identifier of a member by another of its kind.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn change_key(
        &self,
        actor: Actor,
        member_id: MemberId,
        replaces: Option<KeyId>,
        to: Identifier,
        proof: Option<Proof>,
    ) -> Result<(Result<MemberKeys, Refusal>, Cost), MemberError> {
        self.write_key(actor, member_id, Act::Change { replaces, to, proof }).await
    }

    /// Writes down that an identifier of a member was proved.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn verify_key(
        &self,
        actor: Actor,
        member_id: MemberId,
        identifier: Identifier,
        proof: Proof,
    ) -> Result<(Result<MemberKeys, Refusal>, Cost), MemberError> {
        self.edit(actor, member_id, Verify { identifier, proof }).await
    }

    /// Takes an identifier from a member.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn release_key(
        &self,
        actor: Actor,
        member_id: MemberId,
        key_id: KeyId,
    ) -> Result<(Result<MemberKeys, Refusal>, Cost), MemberError> {
        self.write_key(actor, member_id, Act::Release(key_id)).await
    }

    /// Hands an identifier over to a member, whoever has it.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn transfer_key(
        &self,
        actor: Actor,
        member_id: MemberId,
        identifier: Identifier,
        proof: Proof,
        reason: TransferReason,
    ) -> Result<(Result<MemberKeys, Refusal>, Cost), MemberError> {
        self.write_key(actor, member_id, Act::Transfer { identifier, proof, reason }).await
    }

    /// Erases a person, if the member has one of these versions. Every node forgets within the stated bound.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub async fn erase(
        &self,
        actor: Actor,
        member_id: MemberId,
        versions: Option<Vec<i64>>,
        reason: EraseReason,
    ) -> Result<(Result<Erased, Refusal>, Cost), MemberError> {
        let events = self.event_ids(erase::writer::EVENTS_MAX).await?;
        let (erase, book) = (self.erase.clone(), self.book.clone());
        let erasing = tokio::spawn(async move {
            let outcome = erase.write(EraseOp { member_id, events, actor, versions, reason }).await;
            // After an error too: COMMIT may have gone through. The keys come by the tail then.
            book.forget(member_id).await;
            if let Ok((Ok((_, moved)), _)) = &outcome {
                for subject in moved {
                    book.forget_key(*subject).await;
                }
            }
            outcome
        });
        let (answer, cost) = erasing.await.unwrap_or(Err(LaneError::Panicked))?;
        Ok((answer.map(|(erased, _)| erased), cost))
    }

    /// Reads what is known of a person, which is audited.
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal.
    pub(super) async fn export(
        &self,
        actor: Actor,
        member_id: MemberId,
    ) -> Result<(Result<Person, Refusal>, Cost), MemberError> {
        let log_id = self.event_id().await?;
        Ok(self.export.write(ExportOp { member_id, log_id, actor }).await?)
    }

    /// In a task of its own, so that this node forgets also when the caller goes away meanwhile.
    async fn write_key(
        &self,
        actor: Actor,
        member_id: MemberId,
        act: Act,
    ) -> Result<(Result<MemberKeys, Refusal>, Cost), MemberError> {
        let events = self.event_ids(writer::EVENTS_MAX).await?;
        let wanted: Vec<i64> = match &act {
            Act::Add { identifier, .. } | Act::Transfer { identifier, .. } | Act::Change { to: identifier, .. } => {
                store::keys_known_of(&self.secrets, identifier).into_iter().map(key_subject).collect()
            }
            Act::Release(_) => Vec::new(),
        };
        let (key_writer, book) = (self.key_writer.clone(), self.book.clone());
        let writing = tokio::spawn(async move {
            let outcome = key_writer.write(KeyOp { member_id, events, actor, act }).await;
            // After an error too: COMMIT may have gone through. What else has moved comes by the tail then.
            book.forget(member_id).await;
            let mut moved = wanted;
            if let Ok((Ok(Kept { moved: more, other, .. }), _)) = &outcome {
                moved.extend(more);
                if let Some(other) = other {
                    book.forget(*other).await;
                }
            }
            for subject in moved {
                book.forget_key(subject).await;
            }
            outcome
        });
        let (answer, cost) = writing.await.unwrap_or(Err(LaneError::Panicked))?;
        Ok((answer.map(|kept| kept.keys), cost))
    }

    /// A member by id.
    ///
    /// # Errors
    /// [`MemberError::Lane`].
    pub async fn find(&self, member_id: MemberId) -> Result<(Option<Arc<Shown>>, Cost), MemberError> {
        Ok(self.book.find(member_id).await?)
    }

    /// The member that has an identifier.
    ///
    /// # Errors
    /// [`MemberError::Lane`].
    pub async fn find_by(&self, identifier: &Identifier) -> Result<(Option<Arc<Shown>>, Cost), MemberError> {
        Ok(self.book.find_by(identifier).await?)
    }

    /// Members by id; those that do not exist are left out.
    ///
    /// # Errors
    /// [`MemberError::Lane`].
    pub async fn find_many(
        &self,
        member_ids: Vec<MemberId>,
    ) -> Result<(HashMap<MemberId, Arc<Shown>>, Cost), MemberError> {
        Ok(self.book.find_many(member_ids).await?)
    }

    /// Shows what is masked of a member, once that is written down. `fields` are names of
    /// [`super::reveal::openers`].
    ///
    /// # Errors
    /// [`MemberError`]; the inner error is the refusal, `member_not_found`.
    pub async fn reveal(
        &self,
        actor: Actor,
        member_id: MemberId,
        fields: Vec<&'static str>,
        reason: String,
    ) -> Result<(Result<Revealed, Refusal>, Cost), MemberError> {
        let log_id = self.event_id().await?;
        Ok(self.reveal.write(Reveal { member_id, log_id, actor, fields, reason }).await?)
    }

    async fn event_ids(&self, n: usize) -> Result<Vec<EventId>, MemberError> {
        let today = Day::from_date(self.clock.now().date_naive());
        let numbers = self.events.next(n).await?;
        Ok(numbers.into_iter().map(|number| EventId::from_parts(today, number)).collect::<Result<_, _>>()?)
    }

    async fn event_id(&self) -> Result<EventId, MemberError> {
        let today = Day::from_date(self.clock.now().date_naive());
        Ok(EventId::from_parts(today, self.events.next_one().await?)?)
    }
}
