//! API keys in memory: a request is authenticated without a query.
//!
//! A revoked key is refused within [`REVOKED_WITHIN`] on every process: [`watch`] asks every [`POLL_EVERY`] which keys
//! were revoked and drops them, and when it could not ask for that long, the cache is bypassed. Loads and removals go
//! through `entry().and_compute_with`, one at a time for each key, so a load that began before a revocation cannot put
//! back what the removal took away. Unknown keys leave no entry: a key just made works at once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};

use super::ChainError;
use super::key::{self, ApiKey};
use crate::clock::Clock;
use crate::db::pool::Office;

/// The longest time for which a revoked key is still taken.
pub const REVOKED_WITHIN: Duration = Duration::from_secs(2);
/// How often it is asked which keys were revoked.
pub const POLL_EVERY: Duration = Duration::from_millis(500);
/// Entries live no longer than this, whatever happens: a change of a key's row by hand is seen by then.
const TTL: Duration = Duration::from_secs(60);
/// Keys that are kept: four for each store of a chain of 16,000.
const KEYS_MAX: u64 = 65_536;
/// How far back each poll looks. Covers what a slow commit and clocks of two processes can differ by.
const OVERLAP: TimeDelta = TimeDelta::seconds(60);

/// The keys of a process; clones share them.
#[derive(Clone)]
pub struct KeyCache {
    keys: Cache<String, Arc<ApiKey>>,
    epoch: Instant,
    /// Milliseconds from `epoch` to the begin of the last poll that succeeded; 0 is never.
    polled_ms: Arc<AtomicU64>,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self {
            keys: Cache::builder().max_capacity(KEYS_MAX).time_to_live(TTL).build(),
            epoch: Instant::now(),
            polled_ms: Arc::default(),
        }
    }
}

impl KeyCache {
    /// The key, if it is in memory and memory can be believed.
    pub async fn find(&self, key_id: &str) -> Option<Arc<ApiKey>> {
        if self.is_believable() { self.keys.get(key_id).await } else { None }
    }

    /// The key, from memory or by `load`. Those who ask for one key meanwhile wait for one load.
    ///
    /// # Errors
    /// Those of `load`; nothing is kept then.
    pub async fn find_or_load<F, E>(&self, key_id: &str, load: impl FnOnce() -> F) -> Result<Option<Arc<ApiKey>>, E>
    where
        F: Future<Output = Result<Option<ApiKey>, E>>,
        E: Send + Sync + 'static,
    {
        if !self.is_believable() {
            return Ok(load().await?.map(Arc::new));
        }
        let outcome = self
            .keys
            .entry(key_id.to_owned())
            .and_try_compute_with(|present| async move {
                Ok(match present {
                    Some(_) => Op::Nop,
                    None => load().await?.map_or(Op::Nop, |key| Op::Put(Arc::new(key))),
                })
            })
            .await?;
        Ok(match outcome {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) | CompResult::Unchanged(entry) => {
                Some(entry.into_value())
            }
            CompResult::StillNone(_) | CompResult::Removed(_) => None,
        })
    }

    /// Forgets a key. Waits for a load of it that is under way.
    pub async fn remove(&self, key_id: &str) {
        self.keys.entry(key_id.to_owned()).and_compute_with(|_| async { Op::Remove }).await;
    }

    /// Keys in memory, for a gauge.
    pub fn len(&self) -> u64 {
        self.keys.entry_count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks once which keys were revoked and forgets them.
    ///
    /// # Errors
    /// Those of the database; then the cache is bypassed when its time is up.
    pub async fn poll(&self, office: &Office, clock: &Clock) -> Result<(), ChainError> {
        let began = self.elapsed_ms();
        let mut conn = office.get().await?;
        for key_id in key::list_revoked_since(&mut conn, clock.now() - OVERLAP).await? {
            self.remove(&key_id).await;
        }
        self.believe_since(began);
        Ok(())
    }

    /// A key that is in memory without a database, and believed as if one had been asked.
    #[cfg(test)]
    pub(crate) async fn put_for_tests(&self, key: Arc<ApiKey>) {
        if !self.is_believable() {
            self.believe_since(self.elapsed_ms() + millis(Duration::from_secs(3600)));
        }
        self.keys.insert(key.key_id.clone(), key).await;
    }

    fn believe_since(&self, began_ms: u64) {
        let before = self.polled_ms.swap(began_ms, Ordering::AcqRel);
        if before == 0 || began_ms.saturating_sub(before) > millis(REVOKED_WITHIN) {
            // Nobody asked for so long that a revocation may have been missed: begin anew.
            self.keys.invalidate_all();
        }
    }

    fn is_believable(&self) -> bool {
        let polled = self.polled_ms.load(Ordering::Acquire);
        polled > 0 && self.elapsed_ms().saturating_sub(polled) <= millis(REVOKED_WITHIN)
    }

    fn elapsed_ms(&self) -> u64 {
        millis(self.epoch.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Polls until the future is dropped. One task a process.
pub async fn watch(cache: KeyCache, office: Office, clock: Clock) {
    let mut ticks = tokio::time::interval(POLL_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        match cache.poll(&office, &clock).await {
            Ok(()) => failing = false,
            Err(error) => {
                // Said once: the database being away is said by others every second.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot ask which API keys were revoked; asking the database for each request");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicU32;

    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use tokio::sync::Notify;

    use super::*;
    use crate::chain::key::{KeyName, NewToken, Role, Token};

    fn api_key() -> ApiKey {
        let token = NewToken::mint(&mut StdRng::seed_from_u64(1)).reveal();
        let hash = Token::parse(&token).unwrap().hash();
        ApiKey::new("k".into(), KeyName::parse("k").unwrap(), Role::Ops, None, hash)
    }

    fn believed() -> KeyCache {
        let cache = KeyCache::default();
        cache.believe_since(cache.elapsed_ms());
        cache
    }

    #[tokio::test]
    async fn those_who_ask_at_once_share_one_load() {
        let cache = believed();
        let loads = AtomicU32::new(0);
        let ask = || async {
            let load = || async {
                loads.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(Some(api_key()))
            };
            assert!(cache.find_or_load("k", load).await.unwrap().is_some());
        };
        futures_util::future::join_all((0..32).map(|_| ask())).await;
        assert_eq!(loads.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_key_revoked_while_it_is_loaded_is_not_kept() {
        let cache = believed();
        let (loading, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let load = tokio::spawn({
            let (cache, loading, go_on) = (cache.clone(), Arc::clone(&loading), Arc::clone(&go_on));
            async move {
                let load = || async {
                    loading.notify_one();
                    go_on.notified().await;
                    Ok::<_, Infallible>(Some(api_key()))
                };
                cache.find_or_load("k", load).await.unwrap()
            }
        });
        loading.notified().await;
        let remove = tokio::spawn({
            let cache = cache.clone();
            async move { cache.remove("k").await }
        });
        tokio::task::yield_now().await;
        go_on.notify_one();
        load.await.unwrap();
        remove.await.unwrap();
        assert!(cache.find("k").await.is_none());
    }

    #[tokio::test]
    async fn unknown_keys_are_not_kept_and_errors_pass_through() {
        let cache = believed();
        assert!(cache.find_or_load("k", || async { Ok::<_, Infallible>(None) }).await.unwrap().is_none());
        assert_eq!(cache.find_or_load("k", || async { Err("away") }).await.err(), Some("away"));
        assert!(cache.find_or_load("k", || async { Ok::<_, Infallible>(Some(api_key())) }).await.unwrap().is_some());
        assert!(cache.find("k").await.is_some());
    }

    #[tokio::test]
    async fn a_cache_that_was_never_polled_is_bypassed() {
        let cache = KeyCache::default();
        assert!(cache.find_or_load("k", || async { Ok::<_, Infallible>(Some(api_key())) }).await.unwrap().is_some());
        assert!(cache.find("k").await.is_none());
        cache.believe_since(cache.elapsed_ms());
        assert!(cache.find("k").await.is_none(), "what was seen before the first poll was not kept");
    }
}
