//! One cache for hot reads: single-flight, without negative entries, safe against the invalidation that happens during
//! a load.
//!
//! A load and an invalidation of one key exclude each other: both go through the entry's own lock. So a value that was
//! read before a change committed is either removed by the invalidation that follows, or was never put. Forgetting
//! everything cannot wait for every load, so each value carries the generation in which its load began, and one of an
//! older generation does not count. A miss is not remembered: a member registered on another node must be found at once.
//!
//! A node may use its caches until the deadline in [`Bypass`], which the tail of events moves on. The reader compares the
//! clock itself, after it has the value: a process that was stopped for a while does not trust what it wakes up with,
//! even though nothing of its own ran in time to tell it.

use std::{
    future::Future,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::ops::compute::{CompResult, Op};

/// Until when a node may use its caches. Shared by every cache of the node that events keep right; the default is for
/// what never changes, and has no deadline.
#[derive(Clone)]
pub struct Bypass(Arc<Deadline>);

struct Deadline {
    epoch: Instant,
    /// Microseconds after `epoch`.
    fresh_until: AtomicU64,
}

impl Bypass {
    const NEVER: u64 = u64::MAX;

    /// In force until [`Bypass::fresh_until`] is called for the first time.
    pub fn stale() -> Self {
        Self(Arc::new(Deadline { epoch: Instant::now(), fresh_until: AtomicU64::new(0) }))
    }

    /// Lets the caches be used until then. An instant in the past turns them off at once.
    pub fn fresh_until(&self, deadline: Instant) {
        let after = deadline.saturating_duration_since(self.0.epoch).as_micros();
        self.0.fresh_until.store(u64::try_from(after).unwrap_or(Self::NEVER), Ordering::Release);
    }

    /// Whether caches must be passed by at this moment.
    pub fn is_set(&self) -> bool {
        let fresh_until = self.0.fresh_until.load(Ordering::Acquire);
        fresh_until != Self::NEVER && self.0.epoch.elapsed() >= Duration::from_micros(fresh_until)
    }
}

impl Default for Bypass {
    /// Never in force.
    fn default() -> Self {
        Self(Arc::new(Deadline { epoch: Instant::now(), fresh_until: AtomicU64::new(Self::NEVER) }))
    }
}

pub struct Cache<K, V> {
    name: &'static str,
    inner: moka::future::Cache<K, Entry<V>>,
    generation: Arc<AtomicU64>,
    bypass: Bypass,
}

/// A value with the generation in which its load began.
struct Entry<V> {
    generation: u64,
    value: Arc<V>,
}

impl<V> Clone for Entry<V> {
    fn clone(&self) -> Self {
        Self { generation: self.generation, value: Arc::clone(&self.value) }
    }
}

impl<K, V> Clone for Cache<K, V> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            inner: self.inner.clone(),
            generation: Arc::clone(&self.generation),
            bypass: self.bypass.clone(),
        }
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
            .weigher(move |key, entry: &Entry<V>| weigh(key, &entry.value))
            .time_to_live(ttl)
            .build();
        Self { name, inner, generation: Arc::default(), bypass }
    }

    /// The value in memory, if there is one and the node keeps its bound.
    pub async fn peek(&self, key: &K) -> Option<Arc<V>> {
        let entry = self.inner.get(key).await?;
        // In this order: what was there before a deadline that has not passed now is fresh enough.
        (self.is_current(&entry) && !self.bypass.is_set()).then_some(entry.value)
    }

    fn is_current(&self, entry: &Entry<V>) -> bool {
        entry.generation == self.generation.load(Ordering::Acquire)
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
        if let Some(value) = self.peek(key).await {
            return Ok(Some((value, true)));
        }
        // Boxed: this is large, and would be part of every request that finds what it wants in memory.
        Box::pin(self.load(key, load)).await
    }

    async fn load<E: Send + Sync + 'static>(
        &self,
        key: &K,
        load: impl Future<Output = Result<Option<V>, E>> + Send,
    ) -> Result<Found<V>, E> {
        if self.bypass.is_set() {
            return Ok(load.await?.map(|value| (Arc::new(value), false)));
        }
        let mut from_memory = false;
        let known = &mut from_memory;
        let result = self
            .inner
            .entry_by_ref(key)
            .and_try_compute_with(|entry| async move {
                if entry.is_some_and(|entry| self.is_current(entry.value())) {
                    *known = true;
                    return Ok(Op::Nop);
                }
                let generation = self.generation.load(Ordering::Acquire);
                Ok(match load.await? {
                    Some(value) => Op::Put(Entry { generation, value: Arc::new(value) }),
                    None => Op::Remove,
                })
            })
            .await?;
        metrics::counter!("tessera_cache_loads_total", "cache" => self.name).increment(u64::from(!from_memory));
        Ok(match result {
            CompResult::Inserted(entry) | CompResult::ReplacedWith(entry) | CompResult::Unchanged(entry) => {
                Some((entry.into_value().value, from_memory))
            }
            CompResult::StillNone(_) | CompResult::Removed(_) => None,
        })
    }

    /// Forgets a key. Called after the commit of a write; waits for a load under way, whose value it then removes.
    pub async fn forget(&self, key: &K) {
        self.inner.entry_by_ref(key).and_compute_with(|_| std::future::ready(Op::Remove)).await;
    }

    /// Forgets everything, what is being loaded included: what changed meanwhile is not known.
    pub fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        // Gives the memory back; the generation alone decides what counts.
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
        Cache::new("test", 1 << 20, Duration::from_secs(60), Bypass::default(), |_, value: &String| value.len() as u32)
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
        cache.bypass.fresh_until(Instant::now());
        assert_eq!(read(&cache, "third").await, "third");
        cache.bypass.fresh_until(Instant::now() + Duration::from_secs(60));
        assert_eq!(read(&cache, "fourth").await, "first");
    }

    #[test]
    fn a_deadline_passes_by_itself_and_the_default_has_none() {
        let bypass = Bypass::stale();
        assert!(bypass.is_set());
        let deadline = Instant::now() + Duration::from_millis(20);
        bypass.fresh_until(deadline);
        while Instant::now() < deadline {
            std::hint::spin_loop();
        }
        assert!(bypass.is_set(), "nobody had to say so");
        assert!(!Bypass::default().is_set());
    }

    #[tokio::test]
    async fn a_load_under_way_does_not_outlive_the_forgetting_of_everything() {
        let cache = cache();
        let load = async {
            // Everything is forgotten after the old value was read and before it is put.
            cache.forget_all();
            Ok::<_, Infallible>(Some("old".to_owned()))
        };
        assert_eq!(*cache.get(&1, load).await.unwrap().unwrap().0, "old");
        assert!(cache.peek(&1).await.is_none());
        assert_eq!(read(&cache, "new").await, "new");
        assert_eq!(read(&cache, "newer").await, "new");
    }
}
