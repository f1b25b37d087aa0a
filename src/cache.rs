//! One cache for hot reads: single-flight, without negative entries, safe against the invalidation that happens during
//! a load.
//!
//! A load and an invalidation of one key exclude each other: both go through the entry's own lock. So a value that was
//! read before a change committed is either removed by the invalidation that follows, or was never put. A miss is not
//! remembered: a member registered on another node must be found at once.
//!
//! While the node cannot keep its bound on changes made by others, [`Cache::bypass`] is set and every read loads.

use std::{
    future::Future,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use moka::ops::compute::{CompResult, Op};

/// Set by the tail of events while it lags behind its bound. Shared by every cache of a node.
#[derive(Clone, Default)]
pub struct Bypass(Arc<AtomicBool>);

impl Bypass {
    pub fn set(&self, bypass: bool) {
        self.0.store(bypass, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

pub struct Cache<K, V> {
    name: &'static str,
    inner: moka::future::Cache<K, Arc<V>>,
    bypass: Bypass,
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self { name: self.name, inner: self.inner.clone(), bypass: self.bypass.clone() }
    }
}

/// A value with whether it came from memory.
pub type Found<V> = Option<(Arc<V>, bool)>;

impl<K, V> Cache<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// `weight_max` bounds the sum of `weigh`, in bytes by convention; `ttl` bounds the age of an entry besides.
    pub fn new(
        name: &'static str,
        weight_max: u64,
        ttl: Duration,
        bypass: Bypass,
        weigh: impl Fn(&K, &V) -> u32 + Send + Sync + 'static,
    ) -> Self {
        let inner = moka::future::Cache::builder()
            .name(name)
            .max_capacity(weight_max)
            .weigher(move |key, value: &Arc<V>| weigh(key, value))
            .time_to_live(ttl)
            .build();
        Self { name, inner, bypass }
    }

    /// The value in memory, if there is one and the node keeps its bound.
    pub async fn peek(&self, key: &K) -> Option<Arc<V>> {
        if self.bypass.is_set() {
            return None;
        }
        self.inner.get(key).await
    }

    /// The value of a key; loads it once however many ask.
    ///
    /// # Errors
    /// Whatever the load fails with; nothing is remembered then.
    pub async fn get<E: Send + Sync + 'static>(
        &self,
        key: &K,
        load: impl Future<Output = Result<Option<V>, E>> + Send,
    ) -> Result<Found<V>, E> {
        if self.bypass.is_set() {
            return Ok(load.await?.map(|value| (Arc::new(value), false)));
        }
        if let Some(value) = self.inner.get(key).await {
            return Ok(Some((value, true)));
        }
        let mut from_memory = false;
        let known = &mut from_memory;
        let result = self
            .inner
            .entry_by_ref(key)
            .and_try_compute_with(|entry| async move {
                if entry.is_some() {
                    *known = true;
                    return Ok(Op::Nop);
                }
                Ok(match load.await? {
                    Some(value) => Op::Put(Arc::new(value)),
                    None => Op::Nop,
                })
            })
            .await?;
        metrics::counter!("tessera_cache_loads_total", "cache" => self.name).increment(u64::from(!from_memory));
        Ok(match result {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) | CompResult::Unchanged(entry) => {
                Some((entry.into_value(), from_memory))
            }
            CompResult::StillNone(_) | CompResult::Removed(_) => None,
        })
    }

    /// Forgets a key. Called after the commit of a write; waits for a load under way, whose value it then removes.
    pub async fn forget(&self, key: &K) {
        self.inner.entry_by_ref(key).and_compute_with(|_| std::future::ready(Op::Remove)).await;
    }

    /// Forgets everything: what changed meanwhile is not known.
    pub fn forget_all(&self) {
        self.inner.invalidate_all();
    }

    pub fn entries(&self) -> u64 {
        self.inner.entry_count()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::oneshot;

    use super::*;

    fn cache() -> Cache<u32, String> {
        Cache::new("test", 1 << 20, Duration::from_secs(60), Bypass::default(), |_, value| value.len() as u32)
    }

    async fn read(cache: &Cache<u32, String>, database: &str) -> String {
        let loaded = cache.get(&1, std::future::ready(Ok::<_, Infallible>(Some(database.to_owned()))));
        loaded.await.unwrap().unwrap().0.as_str().to_owned()
    }

    #[tokio::test]
    async fn a_value_read_before_a_change_does_not_survive_its_invalidation() {
        let cache = cache();
        let (has_read, reading) = oneshot::channel();
        let (go_on, gone_on) = oneshot::channel();
        // The load reads the old value and is then held between the read and the put.
        let loader = tokio::spawn({
            let cache = cache.clone();
            async move {
                let load = async {
                    has_read.send(()).unwrap();
                    gone_on.await.unwrap();
                    Ok::<_, Infallible>(Some("old".to_owned()))
                };
                cache.get(&1, load).await.unwrap().unwrap().0
            }
        });
        reading.await.unwrap();
        // The change commits and invalidates now, inside the window.
        let mut writer = tokio::spawn({
            let cache = cache.clone();
            async move { cache.forget(&1).await }
        });
        // It has to wait for the load: were it through already, the load would put the old value after it.
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut writer).await.is_err());
        go_on.send(()).unwrap();
        assert_eq!(*loader.await.unwrap(), "old");
        writer.await.unwrap();
        assert_eq!(read(&cache, "new").await, "new");
    }

    #[tokio::test]
    async fn a_miss_is_not_remembered() {
        let cache = cache();
        assert!(cache.get(&1, std::future::ready(Ok::<_, Infallible>(None))).await.unwrap().is_none());
        assert_eq!(read(&cache, "registered").await, "registered");
    }

    #[tokio::test]
    async fn many_readers_load_once() {
        let cache = cache();
        let loads = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let readers = (0..64).map(|_| {
            let (cache, loads) = (cache.clone(), Arc::clone(&loads));
            tokio::spawn(async move {
                let load = async {
                    loads.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    Ok::<_, Infallible>(Some("value".to_owned()))
                };
                cache.get(&1, load).await.unwrap().unwrap();
            })
        });
        futures_util::future::join_all(readers).await;
        assert_eq!(loads.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_node_that_lags_reads_past_its_cache() {
        let cache = cache();
        assert_eq!(read(&cache, "first").await, "first");
        assert_eq!(read(&cache, "second").await, "first");
        cache.bypass.set(true);
        assert_eq!(read(&cache, "third").await, "third");
    }
}
