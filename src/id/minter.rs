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
use super::{MemberId, RuleId};
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
