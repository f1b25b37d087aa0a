//! The operations of members for whoever calls: a handler, a job, a bench, a test. Plain values in, answers out.

use std::sync::Arc;

use super::{
    Member, NewMember,
    cache::{MemberBook, Shown},
    edit::{self, Actor, Edit, EditWriter, Order},
    key::Identifier,
    patch::{Change, Patch},
    register::{self, Register, RegisterWriter},
};
use crate::{
    cache::Bypass,
    chain::names::StoreNames,
    clock::Clock,
    config::CacheSettings,
    db::lane::{Cost, Lane, LaneError, WriterHandle},
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
    pub clock: Clock,
    secrets: Arc<Secrets>,
    minter: Arc<MemberIdMinter>,
    events: Counter,
    register: WriterHandle<RegisterWriter>,
    edit: WriterHandle<EditWriter>,
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
        caches: &CacheSettings,
        bypass: Bypass,
    ) -> Self {
        let register = RegisterWriter { clock: clock.clone(), secrets: Arc::clone(&secrets), stores: stores.clone() };
        let edit = EditWriter { clock: clock.clone(), secrets: Arc::clone(&secrets), stores: stores.clone() };
        Self {
            book: MemberBook::new(lane, Arc::clone(&secrets), stores, caches, bypass),
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
        let ticket = number.map(|number| Ticket { number, digest: register::digest(&self.secrets, &new) });
        let (member_id, event_id) = (self.minter.mint()?, self.event_id().await?);
        let op = Register { ticket, member_id, event_id, actor, new };
        Ok(self.register.write(op).await?)
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

    async fn event_id(&self) -> Result<EventId, MemberError> {
        let today = Day::from_date(self.clock.now().date_naive());
        Ok(EventId::from_parts(today, self.events.next_one().await?)?)
    }
}
