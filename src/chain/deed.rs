//! What a store may do in each of its states: the one table, and a store as tills meet it.
//!
//! | | open | suspended | closed |
//! |---|---|---|---|
//! | register a member, take one for its own | yes | `store_suspended` | `store_closed` |
//! | issue, lock, redeem | yes | `store_suspended` | `store_closed` |
//! | take a use back | yes | yes | for [`REVERSE_DAYS`] more days, then `store_closed` |
//! | release a lock of its own | yes | yes | yes |
//! | look up members and coupons | yes | yes | `store_closed` |
//! | change members and what belongs to them | yes | `store_suspended` | `store_closed` |
//! | upload what its tills did offline before | yes | yes | yes |
//!
//! - It is about the store that acts. Goods bought at a closed store are returned at any other, and operators and
//!   marketing look up what they like.
//! - A suspended store keeps its tills: whoever stands at one may ask, but no business is done.
//! - What a caller bound to a store looks up or changes, the gate asks here before a handler runs (`http::caller::ACCESS`);
//!   numbered writes ask by themselves.
//! - An upload is judged by when each redemption happened: after the closing day it is a conflict, not a refusal.
//! - What was answered under a request number before is answered again, whatever became of the store meanwhile: the
//!   table is asked only for a number that is new.
//! - Nodes know a store's state from memory, at most `book::STORE_TTL` old.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use chrono::{Days, NaiveDate};

use super::{Store, StoreState};
use crate::problem::{Code, Refusal};

/// Days after the closing day on which a closed store still takes returned coupons back.
pub const REVERSE_DAYS: u64 = 30;

/// What a store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Register a member, or become a member's home store.
    RegisterMember,
    Issue,
    Lock,
    Release,
    Redeem,
    Reverse,
    LookUp,
    /// Change a member, or what belongs to one.
    ChangeMember,
    /// Send what happened offline while it was open.
    Upload,
}

impl Deed {
    pub const ALL: [Deed; 9] = [
        Deed::RegisterMember,
        Deed::Issue,
        Deed::Lock,
        Deed::Release,
        Deed::Redeem,
        Deed::Reverse,
        Deed::LookUp,
        Deed::ChangeMember,
        Deed::Upload,
    ];
}

/// The table. `closed_on` counts for a closed store only; one that is closed and does not say since when, was long ago.
///
/// # Errors
/// `store_closed`, `store_suspended`.
pub fn may(state: StoreState, closed_on: Option<NaiveDate>, deed: Deed, today: NaiveDate) -> Result<(), Code> {
    use Deed::{ChangeMember, Issue, Lock, LookUp, Redeem, RegisterMember, Release, Reverse, Upload};
    match (state, deed) {
        (StoreState::Open, _) => Ok(()),
        (_, Release | Upload) => Ok(()),
        (StoreState::Suspended, Reverse | LookUp) => Ok(()),
        (StoreState::Suspended, RegisterMember | Issue | Lock | Redeem | ChangeMember) => Err(Code::StoreSuspended),
        (StoreState::Closed, Reverse) if closed_on.is_some_and(|day| today <= day + Days::new(REVERSE_DAYS)) => Ok(()),
        (StoreState::Closed, RegisterMember | Issue | Lock | Redeem | Reverse | LookUp | ChangeMember) => {
            Err(Code::StoreClosed)
        }
    }
}

/// A store as tills meet it: with its registers, if they must be known.
#[derive(Debug, Clone)]
pub struct Shop {
    pub store: Store,
    /// The active ones; none if any may call.
    pub registers: Option<HashSet<String>>,
    /// The region it is in, and those that one lies in.
    pub regions: Arc<[Arc<str>]>,
}

impl Shop {
    /// # Errors
    /// `store_closed`, `store_suspended`, with the `store_id`.
    pub fn may(&self, deed: Deed, today: NaiveDate) -> Result<(), Refusal> {
        may(self.state, self.closed_on.map(crate::id::Day::to_date), deed, today)
            .map_err(|code| Refusal::new(code).with("store_id", self.store_id.as_str()))
    }

    /// Whether this register may call.
    ///
    /// # Errors
    /// `register_not_found`, with the `store_id`.
    pub fn takes(&self, register: Option<&str>) -> Result<(), Refusal> {
        let Some(known) = &self.registers else { return Ok(()) };
        if register.is_some_and(|register| known.contains(register)) {
            return Ok(());
        }
        Err(Refusal::new(Code::RegisterNotFound).with("store_id", self.store_id.as_str()))
    }
}

impl Deref for Shop {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_may_do_is_this_table() {
        const NO: Option<Code> = Some(Code::StoreClosed);
        const SHUT: Option<Code> = Some(Code::StoreSuspended);
        let day = |text: &str| text.parse::<NaiveDate>().unwrap();
        let today = day("2026-11-22");
        // open, suspended, closed today, closed 30 days ago, closed 31 days ago, closed nobody knows when
        let table = [
            (Deed::RegisterMember, [None, SHUT, NO, NO, NO, NO]),
            (Deed::Issue, [None, SHUT, NO, NO, NO, NO]),
            (Deed::Lock, [None, SHUT, NO, NO, NO, NO]),
            (Deed::Release, [None; 6]),
            (Deed::Redeem, [None, SHUT, NO, NO, NO, NO]),
            (Deed::Reverse, [None, None, None, None, NO, NO]),
            (Deed::LookUp, [None, None, NO, NO, NO, NO]),
            (Deed::ChangeMember, [None, SHUT, NO, NO, NO, NO]),
            (Deed::Upload, [None; 6]),
        ];
        let states = [
            (StoreState::Open, None),
            (StoreState::Suspended, None),
            (StoreState::Closed, Some(today)),
            (StoreState::Closed, Some(day("2026-10-23"))),
            (StoreState::Closed, Some(day("2026-10-22"))),
            (StoreState::Closed, None),
        ];
        assert_eq!(table.map(|(deed, _)| deed), Deed::ALL);
        for (deed, row) in table {
            for ((state, closed_on), expected) in states.into_iter().zip(row) {
                assert_eq!(may(state, closed_on, deed, today).err(), expected, "{deed:?} {state:?} {closed_on:?}");
            }
        }
    }
}
