//! Members in memory: by id, and from identifier to id.
//!
//! What is kept is an answer: masked, and rendered beside for each view ([`super::mask`]), so that a cached one costs no
//! more than its bytes. Nothing that decides over money or state reads it.
//!
//! Keys are remembered by the leading 64 bits of their blind index, which is what an event can name; the whole index is
//! compared.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use uuid::Uuid;

use super::{
    Member,
    key::Identifier,
    mask::View,
    store::{FindKey, FindMember},
};
use crate::{
    cache::{Bypass, Cache},
    chain::names::StoreNames,
    config::CacheSettings,
    db::lane::{Cost, Lane, LaneError, Reader},
    id::MemberId,
    secret::Secrets,
};

/// A member without its text.
const MEMBER_WEIGHT: u32 = 400;
const KEY_WEIGHT: u32 = 128;

/// A member with the JSON that shows it.
#[derive(Debug)]
pub struct Shown {
    pub member: Member,
    /// As tills and support see it.
    pub json: Bytes,
    /// Rendered when it is first asked for.
    marketing: OnceLock<Bytes>,
}

impl Shown {
    pub fn new(member: Member) -> Self {
        let json = View::Service.render(&member);
        Self { member, json, marketing: OnceLock::new() }
    }

    /// The member as a view shows it.
    pub fn seen(&self, view: View) -> &Bytes {
        match view {
            View::Service => &self.json,
            View::Marketing => self.marketing.get_or_init(|| view.hide(self.json.clone())),
        }
    }

    /// What it weighs, both views included.
    fn weight(&self) -> u32 {
        MEMBER_WEIGHT + 2 * self.json.len() as u32
    }
}

/// What is known of members, from memory or the database. Cheap to clone.
#[derive(Clone)]
pub struct MemberBook {
    members: Cache<MemberId, Shown>,
    keys: Cache<i64, (Uuid, MemberId)>,
    find_member: Reader<FindMember>,
    find_key: Reader<FindKey>,
    secrets: Arc<Secrets>,
}

/// The name under which an event tells of a key.
pub fn key_subject(key: Uuid) -> i64 {
    key.as_u64_pair().0.cast_signed()
}

impl MemberBook {
    /// Members may take half of the memory that caches have, and keys a quarter.
    pub fn new(
        lane: &Lane,
        secrets: Arc<Secrets>,
        stores: StoreNames,
        settings: &CacheSettings,
        bypass: Bypass,
    ) -> Self {
        let weigh = |_: &MemberId, shown: &Shown| shown.weight();
        Self {
            members: Cache::new("member", settings.eighths(4), settings.cache_ttl, bypass.clone(), weigh),
            keys: Cache::new("member_key", settings.eighths(2), settings.cache_ttl, bypass, |_, _| KEY_WEIGHT),
            find_member: lane.reader(FindMember { stores }),
            find_key: lane.reader(FindKey),
            secrets,
        }
    }

    /// A member by id, with what it cost: nothing when it was in memory.
    ///
    /// # Errors
    /// [`LaneError`]
    pub async fn find(&self, member_id: MemberId) -> Result<(Option<Arc<Shown>>, Cost), LaneError> {
        match self.members.peek(&member_id).await {
            Some(shown) => Ok((Some(shown), Cost::default())),
            // Boxed: a read of the lane is large, and would be part of every request that finds its member in memory.
            None => Box::pin(self.load(member_id)).await,
        }
    }

    async fn load(&self, member_id: MemberId) -> Result<(Option<Arc<Shown>>, Cost), LaneError> {
        let mut cost = Cost::default();
        let load = async {
            let (row, spent) = self.find_member.find(member_id).await?;
            cost += spent;
            let Some((row, store_id)) = row else { return Ok(None) };
            let member = row.show(&self.secrets, store_id).map_err(|what| LaneError::Inconsistent(what.into()))?;
            Ok::<_, LaneError>(Some(Shown::new(member)))
        };
        let found = self.members.get(&member_id, load).await?;
        Ok((found.map(|(shown, _)| shown), cost))
    }

    /// Members by id, each once. What is not in memory is read with one statement a leaf, and is not put there: a job
    /// that walks over all members must not drive out those that tills ask for.
    ///
    /// # Errors
    /// [`LaneError`]
    pub async fn find_many(
        &self,
        member_ids: Vec<MemberId>,
    ) -> Result<(HashMap<MemberId, Arc<Shown>>, Cost), LaneError> {
        let mut found = HashMap::with_capacity(member_ids.len());
        let mut missing = Vec::new();
        for member_id in member_ids {
            match self.members.peek(&member_id).await {
                Some(shown) => drop(found.insert(member_id, shown)),
                None => missing.push(member_id),
            }
        }
        let (rows, cost) = self.find_member.find_many(missing).await?;
        for (member_id, (row, store_id)) in rows {
            let member = row.show(&self.secrets, store_id).map_err(|what| LaneError::Inconsistent(what.into()))?;
            found.insert(member_id, Arc::new(Shown::new(member)));
        }
        Ok((found, cost))
    }

    /// The member that has an identifier.
    ///
    /// # Errors
    /// [`LaneError`]
    pub async fn find_by(&self, identifier: &Identifier) -> Result<(Option<Arc<Shown>>, Cost), LaneError> {
        let keys = self.secrets.blind(identifier.kind().number(), identifier.normalised());
        let mut cost = Cost::default();
        let Some(member_id) = self.find_id(&keys, &mut cost).await? else { return Ok((None, cost)) };
        let (shown, spent) = self.find(member_id).await?;
        cost += spent;
        Ok((shown, cost))
    }

    /// Keys of every live version, the current one first: a member that is not rewritten yet has only the older.
    async fn find_id(&self, keys: &[(i16, Uuid)], cost: &mut Cost) -> Result<Option<MemberId>, LaneError> {
        let Some(&(_, current)) = keys.first() else { return Ok(None) };
        let load = async {
            for &(_, key) in keys {
                let (member_id, spent) = self.find_key.find(key).await?;
                *cost += spent;
                if let Some(member_id) = member_id {
                    return Ok(Some((current, member_id)));
                }
            }
            Ok::<_, LaneError>(None)
        };
        let Some((known, _)) = self.keys.get(&key_subject(current), load).await? else { return Ok(None) };
        let (of, member_id) = *known;
        if of == current {
            return Ok(Some(member_id));
        }
        // Another key with the same leading bits is in its place, once in billions of years.
        let (member_id, spent) = self.find_key.find(current).await?;
        *cost += spent;
        Ok(member_id)
    }

    /// Forgets a member, after a change of it.
    pub async fn forget(&self, member_id: MemberId) {
        self.members.forget(&member_id).await;
    }

    /// Forgets whose a key is, by its name in events.
    pub async fn forget_key(&self, subject: i64) {
        self.keys.forget(&subject).await;
    }

    pub fn forget_all(&self) {
        self.members.forget_all();
        self.keys.forget_all();
    }

    /// Members and keys in memory, for gauges.
    pub fn entries(&self) -> (u64, u64) {
        (self.members.entries(), self.keys.entries())
    }
}
