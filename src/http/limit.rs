//! What a caller may send: rates by API key, failed authentication by peer, and coupon codes that fail their check.
//!
//! A bucket is one number, the theoretical arrival time of the generic cell rate algorithm, kept by a 64-bit hash of
//! its owner. Buckets that are full again are forgotten; when all are in use, newcomers share one, so memory is bounded
//! whatever is sent. (governor has neither a bound on its keys nor a way to look without taking.)

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use super::caller::Caller;
use crate::problem::{Code, Refusal};

const SHARDS: usize = 16;

/// So many at once, and so many a minute in the long run. A rate of 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_minute: u32,
    pub burst: u32,
}

/// The limits of one process. Two processes allow twice as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitSettings {
    /// Requests of one API key.
    pub requests: Rate,
    /// Requests of one peer address with a key that is not one of ours.
    pub auth_failures: Rate,
    /// Coupon codes of one API key that fail their check.
    pub bad_codes: Rate,
    /// Unmasked answers to one API key.
    pub reveals: Rate,
    /// Buckets of each kind that are kept.
    pub keys_max: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            requests: Rate { per_minute: 120_000, burst: 4_000 },
            auth_failures: Rate { per_minute: 60, burst: 30 },
            bad_codes: Rate { per_minute: 30, burst: 60 },
            reveals: Rate { per_minute: 30, burst: 30 },
            keys_max: 100_000,
        }
    }
}

/// The buckets of a process.
pub struct Limits {
    epoch: Instant,
    requests: Buckets,
    auth_failures: Buckets,
    bad_codes: Buckets,
    reveals: Buckets,
}

impl Limits {
    pub fn new(settings: &LimitSettings) -> Self {
        let buckets = |rate| Buckets::new(rate, settings.keys_max);
        Self {
            epoch: Instant::now(),
            requests: buckets(settings.requests),
            auth_failures: buckets(settings.auth_failures),
            bad_codes: buckets(settings.bad_codes),
            reveals: buckets(settings.reveals),
        }
    }

    /// Counts a request of a caller.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn request(&self, caller: &Caller) -> Result<(), Refusal> {
        self.requests.take(caller.bucket(), self.now()).map_err(|wait| too_many(Code::TooManyRequests, wait))
    }

    /// Whether a peer may still try keys that we do not know. Asked before the database is.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn may_authenticate(&self, peer: Option<IpAddr>) -> Result<(), Refusal> {
        self.auth_failures.look(bucket_of(peer), self.now()).map_err(|wait| too_many(Code::TooManyRequests, wait))
    }

    /// Counts a failed authentication.
    pub fn auth_failed(&self, peer: Option<IpAddr>) {
        let _ = self.auth_failures.take(bucket_of(peer), self.now());
    }

    /// Counts an unmasked answer to a caller.
    ///
    /// # Errors
    /// `too_many_requests`.
    pub fn reveal(&self, caller: &Caller) -> Result<(), Refusal> {
        self.reveals.take(caller.bucket(), self.now()).map_err(|wait| too_many(Code::TooManyRequests, wait))
    }

    /// Whether a caller may still send coupon codes. Asked before a code is looked at, so that a right guess among too
    /// many wrong ones is refused as well.
    ///
    /// # Errors
    /// `too_many_bad_codes`.
    pub fn may_send_codes(&self, caller: &Caller) -> Result<(), Refusal> {
        self.bad_codes.look(caller.bucket(), self.now()).map_err(|wait| too_many(Code::TooManyBadCodes, wait))
    }

    /// Counts a coupon code that failed its check and gives the refusal to answer with.
    pub fn bad_code(&self, caller: &Caller) -> Refusal {
        metrics::counter!("tessera_bad_codes_total").increment(1);
        let now = self.now();
        let taken = self.bad_codes.take(caller.bucket(), now);
        if taken.is_ok() && self.bad_codes.look(caller.bucket(), now).is_err() {
            metrics::counter!("tessera_bad_code_floods_total").increment(1);
            tracing::warn!(key_id = caller.key_id, name = %caller.name, "too many bad coupon codes: refusing its codes");
        }
        match taken {
            Ok(()) => Code::CouponCodeInvalid.into(),
            Err(wait) => too_many(Code::TooManyBadCodes, wait),
        }
    }

    fn now(&self) -> u64 {
        nanos(self.epoch.elapsed())
    }
}

fn too_many(code: Code, wait: Duration) -> Refusal {
    // Rounded up: who comes back after so many whole seconds is served.
    Refusal::new(code).with("retry_after", wait.as_nanos().div_ceil(1_000_000_000).max(1) as u64)
}

/// One bucket for each IPv4 address, and for each /64 of IPv6, which is what one customer has.
fn bucket_of(peer: Option<IpAddr>) -> u64 {
    match peer.map(|ip| ip.to_canonical()) {
        None => 0,
        Some(IpAddr::V4(ip)) => xxh3_64(&ip.octets()),
        Some(IpAddr::V6(ip)) => xxh3_64(&ip.octets()[..8]),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Buckets of one rate. Times are nanoseconds since an epoch of the caller's.
struct Buckets {
    /// `None`: no limit.
    cell: Option<Cell>,
    keys_max: usize,
    shards: [Mutex<HashMap<u64, u64>>; SHARDS],
}

#[derive(Clone, Copy)]
struct Cell {
    nanos: u64,
    burst_nanos: u64,
}

/// The bucket that newcomers share when all are in use.
const SHARED: u64 = u64::MAX;

impl Buckets {
    fn new(rate: Rate, keys_max: usize) -> Self {
        let cell = (rate.per_minute > 0).then(|| {
            let nanos = 60_000_000_000 / u64::from(rate.per_minute);
            Cell { nanos, burst_nanos: nanos * u64::from(rate.burst.max(1)) }
        });
        Self { cell, keys_max: (keys_max / SHARDS).max(1), shards: Default::default() }
    }

    /// Takes one; says how long to wait when there is none.
    fn take(&self, key: u64, now: u64) -> Result<(), Duration> {
        let Some(cell) = self.cell else { return Ok(()) };
        let mut shard = self.shard(key);
        let key = if shard.contains_key(&key) || self.has_room(&mut shard, now) { key } else { SHARED };
        let arrival = shard.entry(key).or_insert(0);
        *arrival = cell.fit(*arrival, now)?;
        Ok(())
    }

    /// Says whether one could be taken, without taking it.
    fn look(&self, key: u64, now: u64) -> Result<(), Duration> {
        let Some(cell) = self.cell else { return Ok(()) };
        let shard = self.shard(key);
        shard.get(&key).map_or(Ok(()), |&arrival| cell.fit(arrival, now).map(|_| ()))
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u64>> {
        // No invariant spans two entries, so a shard that somebody panicked over is as good as any.
        self.shards[key as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_room(&self, shard: &mut HashMap<u64, u64>, now: u64) -> bool {
        if shard.len() >= self.keys_max {
            // A bucket whose arrival time is past is full: forgetting it changes nothing.
            shard.retain(|_, arrival| *arrival > now);
        }
        shard.len() < self.keys_max
    }
}

impl Cell {
    /// The next arrival time if one fits now, else how long until one does.
    fn fit(self, arrival: u64, now: u64) -> Result<u64, Duration> {
        let next = arrival.max(now) + self.nanos;
        let latest = now + self.burst_nanos;
        if next > latest { Err(Duration::from_nanos(next - latest)) } else { Ok(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let buckets = Buckets::new(Rate { per_minute: 60, burst: 3 }, 1000);
        for _ in 0..3 {
            buckets.look(1, 0).unwrap();
            buckets.take(1, 0).unwrap();
        }
        assert_eq!(buckets.look(1, 0).unwrap_err(), Duration::from_secs(1));
        assert_eq!(buckets.take(1, SECOND / 2).unwrap_err(), Duration::from_millis(500));
        buckets.take(1, SECOND).unwrap();
        buckets.take(1, SECOND).unwrap_err();
        buckets.take(2, 0).unwrap();
        for _ in 0..3 {
            buckets.take(1, 100 * SECOND).unwrap();
        }
        buckets.take(1, 100 * SECOND).unwrap_err();
    }

    #[test]
    fn memory_is_bounded_and_newcomers_share_a_bucket_when_it_is_used_up() {
        let buckets = Buckets::new(Rate { per_minute: 60, burst: 2 }, 16);
        let refused = (0..10_000_u64).filter(|key| buckets.take(key * 16, 0).is_err()).count();
        assert_eq!(refused, 10_000 - 3, "one of its own and two of the shared bucket");
        assert!(buckets.shards.iter().all(|shard| shard.lock().unwrap().len() <= 2));
        buckets.take(77 * 16, 10 * SECOND).unwrap();
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let buckets = Buckets::new(Rate { per_minute: 0, burst: 0 }, 16);
        for _ in 0..1000 {
            buckets.take(1, 0).unwrap();
        }
    }

    #[test]
    fn peers_of_one_ipv6_network_share_a_bucket() {
        let bucket = |text: &str| bucket_of(Some(text.parse().unwrap()));
        assert_eq!(bucket("2001:db8::1"), bucket("2001:db8::ffff:2"));
        assert_ne!(bucket("2001:db8::1"), bucket("2001:db8:0:1::1"));
        assert_eq!(bucket("::ffff:10.0.0.1"), bucket("10.0.0.1"));
        assert_ne!(bucket("10.0.0.1"), bucket("10.0.0.2"));
    }
}
