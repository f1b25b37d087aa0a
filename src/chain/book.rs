//! Stores in memory, by what tills call them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{ChainError, RegisterPolicy, StoreId, deed::Shop, names::StoreNames, region_store, register, store};
use crate::{
    cache::{Bypass, Cache},
    db::pool::Office,
    id::StoreNo,
    problem::Code,
};

/// A store that is closed is closed on every node within this time; so are changes of its registers and of the
/// regions that it lies in felt.
pub const STORE_TTL: Duration = Duration::from_secs(2);
/// A store weighs about this much, in bytes, and each register that it names as much more.
const WEIGHT: u32 = 512;
const WEIGHT_REGISTER: u32 = 64;
const WEIGHT_MAX: u64 = 32 << 20;

#[derive(Clone)]
pub struct StoreBook {
    stores: Cache<StoreId, Shop>,
    pub names: StoreNames,
    office: Office,
}

impl StoreBook {
    pub fn new(office: Office) -> Self {
        let stores = Cache::new("store", WEIGHT_MAX, STORE_TTL, Bypass::default(), |_, shop: &Shop| {
            let registers = shop.registers.as_ref().map_or(0, |known| known.len());
            WEIGHT + WEIGHT_REGISTER * u32::try_from(registers).unwrap_or(u32::MAX / WEIGHT_REGISTER)
        });
        Self { stores, names: StoreNames::default(), office }
    }

    /// The store that tills call so.
    ///
    /// # Errors
    /// [`ChainError`] of the database.
    pub async fn find(&self, store_id: &StoreId) -> Result<Option<Arc<Shop>>, ChainError> {
        match self.stores.peek(store_id).await {
            Some(shop) => Ok(Some(shop)),
            // Boxed: what a load needs is large, and would be part of every request that asks for a store.
            None => Box::pin(self.load(store_id)).await,
        }
    }

    async fn load(&self, store_id: &StoreId) -> Result<Option<Arc<Shop>>, ChainError> {
        let load = async {
            let mut conn = self.office.get().await?;
            let Some(store) = store::find_store(&mut conn, store_id).await? else { return Ok(None) };
            let registers = match store.registers {
                RegisterPolicy::Open => None,
                RegisterPolicy::Registered => Some(register::list_active(&mut conn, store.store_no).await?),
            };
            let regions = match &store.region_id {
                Some(region_id) => region_store::list_ancestors(&mut conn, region_id).await?,
                None => Vec::new(),
            };
            let regions = regions.into_iter().map(Arc::from).collect();
            Ok::<_, ChainError>(Some(Shop { store, registers, regions }))
        };
        let Some((store, _)) = self.stores.get(store_id, Box::pin(load)).await? else { return Ok(None) };
        if self.names.get(store.store_no).is_none() {
            self.names.put(store.store_no, store.store_id.as_str().into());
        }
        Ok(Some(store))
    }

    /// # Errors
    /// `store_not_found`, or [`ChainError`] of the database.
    pub async fn get(&self, store_id: &StoreId) -> Result<Arc<Shop>, ChainError> {
        self.find(store_id).await?.ok_or_else(|| Code::StoreNotFound.into())
    }

    /// What people call a store that a row names by number.
    ///
    /// # Errors
    /// [`ChainError`] of the database, and `Inconsistent` when there is no such store.
    pub async fn name(&self, store_no: StoreNo) -> Result<Arc<str>, ChainError> {
        if let Some(name) = self.names.get(store_no) {
            return Ok(name);
        }
        let mut conn = self.office.get().await?;
        let (mut names, _) = self.names.read(&mut conn, BTreeSet::from([store_no])).await?;
        names.remove(&store_no).ok_or(ChainError::Inconsistent {
            table: "store",
            column: "store_no",
            key: store_no.to_string(),
        })
    }
}
