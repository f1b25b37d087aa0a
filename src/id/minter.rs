//! Mints the ids of members and rules: milliseconds since 2020-01-01 (41 bits), node (10), sequence (12).
//!
//! No id is ever made twice, whatever the clocks of the nodes say. The milliseconds of the ids lie inside the window
//! of the node's lease, `floor_ms .. until_ms` in the database's time, and the windows of the successive holders of a
//! node don't overlap (see `lease`). Within a holder, (milliseconds, sequence) only ever grow.
//!
//! Minting stops, with an error, when the lease has lapsed by the monotonic clock or by the window, or when the
//! machine's clock was set back. It does not wait and it does not renew the lease: the app has a task for that.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use thiserror::Error;

use super::lease::NodeLease;
use super::{JobId, MemberId, RuleId};
use crate::clock::Clock;

/// 2020-01-01T00:00:00Z in Unix milliseconds.
pub const EPOCH_MS: i64 = 1_577_836_800_000;
/// When the 41 bits end: 2089-09-06.
const MS_END: i64 = 1 << 41;
const NODE_BITS: u32 = 10;
const SEQUENCE_BITS: u32 = 12;
const SEQUENCE_END: i64 = 1 << SEQUENCE_BITS;
/// How far the ids may run ahead of the clock when more than 4096 are wanted in a millisecond.
const AHEAD_MS_MAX: i64 = 200;

/// Why no id was made. All of these pass; a caller is told to try again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MintError {
    #[error("the lease of node {node} has lapsed")]
    LeaseLapsed { node: i16 },
    #[error("this machine's clock is {behind_ms} ms behind where it has been")]
    ClockBehind { behind_ms: i64 },
    #[error("ids are wanted faster than {SEQUENCE_END} a millisecond")]
    TooFast,
    #[error("this machine's clock is outside the years 2020 to 2089")]
    ClockOutOfRange,
}

/// Makes ids under a lease. Shared by reference; the critical section is a few dozen nanoseconds.
#[derive(Debug)]
pub struct MemberIdMinter {
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    lease: NodeLease,
    /// Highest reading of the clock so far, Unix ms.
    clock_ms: i64,
    /// Milliseconds and sequence of the last id, Unix ms.
    last_ms: i64,
    last_sequence: i64,
    stopped: bool,
}

impl MemberIdMinter {
    pub fn new(lease: NodeLease, clock: Clock) -> Self {
        Self { clock, state: Mutex::new(State::new(lease)) }
    }

    /// A new member's id.
    ///
    /// # Errors
    /// [`MintError`]; nothing was used up.
    pub fn mint(&self) -> Result<MemberId, MintError> {
        self.mint_raw().map(|id| MemberId::new(id).expect("63 bits make a non-negative number"))
    }

    /// A new rule's id, from the same numbers.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub fn mint_rule(&self) -> Result<RuleId, MintError> {
        self.mint_raw().map(|id| RuleId::new(id).expect("63 bits make a non-negative number"))
    }

    /// A new job's id, from the same numbers.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub fn mint_job(&self) -> Result<JobId, MintError> {
        self.mint_raw().map(|id| JobId::new(id).expect("63 bits make a non-negative number"))
    }

    /// A number that is no other id of this minter, of any node.
    ///
    /// # Errors
    /// As [`Self::mint`].
    pub fn mint_raw(&self) -> Result<i64, MintError> {
        let mut state = self.lock();
        // Read under the lock: of two threads, the one that reads later must also mint later.
        let now_ms = self.clock.raw_now().timestamp_millis();
        state.mint_at(now_ms, Instant::now())
    }

    /// The lease in force, for renewing it.
    pub fn lease(&self) -> NodeLease {
        self.lock().lease.clone()
    }

    /// Takes over a lease: the renewed one, or one of another node after the old one was lost. Nothing after `stop`.
    pub fn set_lease(&self, lease: NodeLease) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        if state.lease.node() == lease.node() && state.lease.holder() == lease.holder() {
            state.lease = lease;
        } else {
            *state = State::new(lease);
        }
    }

    /// Ends minting for good and gives back the lease with the instant up to which its window is used (Unix ms), for
    /// [`NodeLease::release`].
    pub fn stop(&self) -> (NodeLease, i64) {
        let mut state = self.lock();
        let lease = state.lease.clone();
        state.stopped = true;
        (lease, state.last_ms.saturating_add(1))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic can't leave the state half written: `mint_at` writes it last.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    fn new(lease: NodeLease) -> Self {
        Self { lease, clock_ms: i64::MIN, last_ms: i64::MIN, last_sequence: 0, stopped: false }
    }

    fn mint_at(&mut self, now_ms: i64, at: Instant) -> Result<i64, MintError> {
        if now_ms < self.clock_ms {
            return Err(MintError::ClockBehind { behind_ms: self.clock_ms - now_ms });
        }
        if !(0..MS_END).contains(&(now_ms - EPOCH_MS)) {
            return Err(MintError::ClockOutOfRange);
        }
        if now_ms < self.lease.floor_ms() {
            return Err(MintError::ClockBehind { behind_ms: self.lease.floor_ms() - now_ms });
        }
        let (ms, sequence) = if now_ms > self.last_ms {
            (now_ms, 0)
        } else if self.last_sequence + 1 < SEQUENCE_END {
            (self.last_ms, self.last_sequence + 1)
        } else {
            (self.last_ms + 1, 0)
        };
        if ms > now_ms + AHEAD_MS_MAX {
            return Err(MintError::TooFast);
        }
        if self.stopped || ms >= self.lease.until_ms() || !self.lease.holds_at(at) {
            return Err(MintError::LeaseLapsed { node: self.lease.node() });
        }
        (self.clock_ms, self.last_ms, self.last_sequence) = (now_ms, ms, sequence);
        let since_epoch = ms - EPOCH_MS;
        Ok(since_epoch << (NODE_BITS + SEQUENCE_BITS) | i64::from(self.lease.node()) << SEQUENCE_BITS | sequence)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use super::*;

    const T: i64 = EPOCH_MS + 200_000_000_000;

    fn state(window: std::ops::Range<i64>, at: Instant) -> State {
        State::new(NodeLease::unshared(5, window, at))
    }

    fn parts(id: i64) -> (i64, i64, i64) {
        (id >> 22, id >> 12 & 1_023, id & 4_095)
    }

    #[test]
    fn an_id_is_milliseconds_node_and_sequence() {
        let at = Instant::now();
        let mut state = state(0..i64::MAX, at);
        assert_eq!(parts(state.mint_at(T, at).unwrap()), (T - EPOCH_MS, 5, 0));
        assert_eq!(parts(state.mint_at(T, at).unwrap()), (T - EPOCH_MS, 5, 1));
        assert_eq!(parts(state.mint_at(T + 1, at).unwrap()), (T + 1 - EPOCH_MS, 5, 0));
    }

    #[test]
    fn more_ids_than_a_millisecond_holds_run_a_little_ahead_and_then_stop() {
        let at = Instant::now();
        let mut state = state(0..i64::MAX, at);
        let mut last = -1;
        let all = (AHEAD_MS_MAX + 1) * SEQUENCE_END;
        for _ in 0..all {
            let id = state.mint_at(T, at).unwrap();
            assert!(id > last);
            last = id;
        }
        assert_eq!(state.mint_at(T, at), Err(MintError::TooFast));
        assert!(state.mint_at(T + 1, at).unwrap() > last, "minting goes on with the clock");
    }

    #[test]
    fn minting_stops_while_the_clock_is_behind_where_it_was() {
        let at = Instant::now();
        let mut state = state(0..i64::MAX, at);
        let first = state.mint_at(T, at).unwrap();
        assert_eq!(state.mint_at(T - 1, at), Err(MintError::ClockBehind { behind_ms: 1 }));
        assert_eq!(state.mint_at(T - 90_000, at), Err(MintError::ClockBehind { behind_ms: 90_000 }));
        assert!(state.mint_at(T, at).unwrap() > first);
    }

    #[test]
    fn minting_stops_when_the_lease_lapses_by_the_monotonic_clock_though_the_wall_clock_stands_still() {
        let at = Instant::now();
        let mut state = state(0..i64::MAX, at);
        assert!(state.mint_at(T, at + Duration::from_millis(28_999)).is_ok());
        assert_eq!(state.mint_at(T, at + Duration::from_secs(29)), Err(MintError::LeaseLapsed { node: 5 }));
    }

    #[test]
    fn no_id_lies_outside_the_lease_s_window_though_the_clock_does() {
        let at = Instant::now();
        let mut state = state(T..T + 10, at);
        assert_eq!(state.mint_at(T - 1, at), Err(MintError::ClockBehind { behind_ms: 1 }));
        assert!(state.mint_at(T, at).is_ok());
        assert!(state.mint_at(T + 9, at).is_ok());
        assert_eq!(state.mint_at(T + 10, at), Err(MintError::LeaseLapsed { node: 5 }));
        // Running ahead ends at the window too.
        let mut ids = 1;
        while state.mint_at(T + 9, at).is_ok() {
            ids += 1;
        }
        assert_eq!(ids, SEQUENCE_END);
    }

    #[test]
    fn the_next_holder_of_a_node_makes_other_ids_whatever_both_clocks_say() {
        let at = Instant::now();
        for skew in [-500, -1, 0, 1, 500, 100_000] {
            let mut first = state(T - 1_000..T, at);
            let mut second = state(T + 1..T + 30_000, at);
            let mut ids = HashSet::new();
            let mut minted = 0;
            for ms in T - 1_000..T + 3_000 {
                for id in [first.mint_at(ms + skew, at), second.mint_at(ms - skew, at)].into_iter().flatten() {
                    minted += 1;
                    ids.insert(id);
                }
            }
            assert_eq!(ids.len(), minted, "skew {skew}");
        }
    }

    #[test]
    fn a_clock_outside_the_41_bits_is_refused() {
        let at = Instant::now();
        let mut state = state(i64::MIN..i64::MAX, at);
        assert_eq!(state.mint_at(EPOCH_MS - 1, at), Err(MintError::ClockOutOfRange));
        assert_eq!(state.mint_at(EPOCH_MS + MS_END, at), Err(MintError::ClockOutOfRange));
        assert!(state.mint_at(EPOCH_MS + MS_END - 1, at).unwrap() > 0);
    }

    #[test]
    fn threads_never_get_the_same_id() {
        let clock = Clock::system();
        let minter = MemberIdMinter::new(NodeLease::unshared(1_023, 0..i64::MAX, Instant::now()), clock);
        let mint_many = || -> Vec<i64> {
            let mut ids = Vec::new();
            while ids.len() < 20_000 {
                match minter.mint() {
                    Ok(id) => ids.push(id.get()),
                    Err(MintError::TooFast) => std::thread::yield_now(),
                    // The machine's clock may really step; the ids must be distinct all the same.
                    Err(MintError::ClockBehind { .. }) => std::thread::yield_now(),
                    Err(other) => panic!("{other}"),
                }
            }
            ids
        };
        let ids: Vec<i64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(mint_many)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 80_000);
    }

    #[test]
    fn after_stop_nothing_is_minted_and_no_lease_revives_it() {
        let minter = MemberIdMinter::new(NodeLease::unshared(7, 0..i64::MAX, Instant::now()), Clock::system());
        let last = minter.mint().unwrap().get() >> 22;
        let (lease, used_until_ms) = minter.stop();
        assert_eq!(used_until_ms, last + EPOCH_MS + 1);
        minter.set_lease(lease);
        assert_eq!(minter.mint(), Err(MintError::LeaseLapsed { node: 7 }));
    }
}
