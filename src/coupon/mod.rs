//! Coupons: rules, codes, issuing, redeeming, reversing.
//!
//! A coupon's row in `coupon` is the truth; `coupon_receive` (by holder) and `coupon_index` (by rule) are its index
//! rows, written with it in one transaction and by [`store`] alone. What a request may do is decided in memory over
//! locked rows ([`decide`]), so that a batch of requests is one transaction.
//!
//! A coupon is named by its code, or by that of the older system that it came from ([`legacy`]). Coupons are issued one request
//! at a time or by jobs ([`issue_job`]), and brought in from older systems ([`import`]); both share [`bulk`].
//!
//! # The transition table
//!
//! What an operation makes of a coupon, or refuses it with; `decide::tests` has a row for each cell.
//!
//! | a coupon that is | lock | release | redeem | reverse a use | void | bind to a member |
//! |---|---|---|---|---|---|---|
//! | unknown | `coupon_not_found` | the same | the same | the same | the same | the same |
//! | issued and free | locked | issued | issued, redeemed with its last use | `redemption_not_found` | void | issued, held |
//! | locked by this order | locked, longer | issued | as free; the lock ends | `redemption_not_found` | void | `coupon_locked` |
//! | locked by another | `coupon_locked` | the same | the same | `redemption_not_found` | void | `coupon_locked` |
//! | issued or locked with a use that stands | as without | as without | as without | issued or locked | `coupon_already_redeemed` | as without |
//! | redeemed | `coupon_already_redeemed` | the same | the same | issued | `coupon_already_redeemed` | the same |
//! | void | `coupon_void` | the same | the same | the same | the same | the same |
//! | expired | `coupon_expired` | expired | `coupon_expired` | expired | void | `coupon_expired` |
//!
//! - Expired is a matter of the clock: an issued coupon whose `valid_until` has come, whether locked or not. Redeemed and
//!   void ones do not expire.
//! - *Lock*: until its time is up or the coupon's, whichever is sooner. The same order may lock again, which prolongs it
//!   and never shortens it. One that ran out is none: others may lock, and releasing it does nothing and tells nobody.
//!   Orders are compared by `order_ref` alone, so it is to name the store.
//! - *Release* names the order; operators may leave it out and let go whoever holds it.
//! - *Reverse* names the use. Of a part that comes back, by lines or by amount, its share of the discount is taken back
//!   and the coupon stays as it is; with the last part the use is on the coupon again, and only this is a cycle. A use
//!   that is reversed after the end of the coupon leaves an expired one and says so.
//! - *Void* gives the coupon back to the stock that it was taken from and to its holder's limit, expired or not. A coupon
//!   with a use that stands is reversed first, also one that has uses left and also where a part of the use came back.
//! - *Bind* is for coupons without a holder. The holder again changes nothing, whatever state the coupon is in; another
//!   member gets `coupon_held`.
//! - *Several coupons in one basket* are redeemed in the order given, each seeing what those before it took from budgets
//!   they share. The first refusal is the basket's, with its `position`, and nothing has happened.
//! - Money that a use takes goes from the budgets of its rule, its business day and its store, and comes back to those,
//!   wherever and whenever the goods come back and whatever the rule says by then.
//!
//! # Which refusal comes first
//!
//! The caller is told the first of:
//!
//! - *redeem*: not found, void, already redeemed, locked, member cancelled, frozen or of a forbidden kind, another holder,
//!   rule not active, not for this store, not yet valid (by the business date, then by the clock), expired, other
//!   currency, below threshold, budget (in all, of the day, of the store).
//! - *lock*: the same up to expired, without the business date.
//! - *release*: not found, void, already redeemed, locked by another.
//! - *reverse*: not found, void, redemption not found, reversed already, too late, too many cycles, line unknown, line
//!   returned already, more than is left.
//! - *void*: not found, void, already redeemed.
//! - *bind*: not found, another holder, void, already redeemed, locked, member not found, cancelled, frozen or of a
//!   forbidden kind, expired, limit per member.
//!
//! `validate` asks [`decide::redeem`] over rows that it has read without locks, and the wallet asks the parts of it that
//! need no coupon row, so that neither can say anything else than redeeming does.
//!
//! A coupon whose month is put away (`tessera retire`, or by age) is not found; what is asked of it is refused with
//! `coupon_retired`. No use is written into a month of the ledger that takes no rows: `month_retired`.
//!
//! The ledger is split by business day, which a till says and a clock does not. A use cannot stand on a day before the
//! coupon's issue, nor an undo on one before its use; a day is allowed for, see [`first_business_day`].

pub mod answer;
pub mod bulk;
pub mod code;
mod copy;
pub mod decide;
pub mod desk;
pub mod http;
pub mod import;
pub mod issue_job;
pub mod legacy;
pub mod legacy_http;
pub mod life_http;
pub mod list;
pub mod list_http;
pub mod offline;
pub mod read;
pub mod rule;
pub mod rule_body;
pub mod rule_cache;
pub mod rule_http;
pub mod rule_store;
pub mod store;
pub mod till;
pub mod totals;
pub mod validate;
pub mod wallet;
pub mod warm;
pub mod world;
pub mod writer;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    id::{CodeId, Day, MemberId, RedemptionId, RuleId, StoreNo},
    problem::{Code, Refusal},
};

/// A coupon as its row says.
#[derive(Debug, Clone, PartialEq)]
pub struct Coupon {
    pub code_id: CodeId,
    pub rule_id: RuleId,
    pub rule_version: i32,
    pub holder: Option<MemberId>,
    pub issued_at: DateTime<Utc>,
    pub valid_from: DateTime<Utc>,
    /// Exclusive.
    pub valid_until: DateTime<Utc>,
    pub state: State,
    /// Uses that stand.
    pub uses: i16,
    /// Reversals so far.
    pub cycles: i16,
    /// Bits of the stocks that it was taken from: `decide::Part`.
    pub counted: i16,
    /// The latest use that stands, as far as the row knows.
    pub last_use: Option<Use>,
    pub issue_store_no: Option<StoreNo>,
    pub referrer: Option<String>,
    pub legacy_key: Option<Uuid>,
    pub void_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Issued { lock: Option<Lock> },
    Redeemed,
    Void,
}

/// A hold of one order on a coupon.
#[derive(Debug, Clone, PartialEq)]
pub struct Lock {
    pub order_ref: String,
    pub until: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Use {
    pub redemption_id: RedemptionId,
    pub at: DateTime<Utc>,
    pub store_no: StoreNo,
    pub order_ref: String,
}

/// The state that callers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Issued,
    Locked,
    Redeemed,
    Void,
    Expired,
}

impl State {
    /// The number that rows carry.
    pub fn number(&self) -> i16 {
        match self {
            State::Issued { .. } => 1,
            State::Redeemed => 2,
            State::Void => 3,
        }
    }
}

impl Coupon {
    /// The lock that counts at this instant.
    pub fn lock_at(&self, now: DateTime<Utc>) -> Option<&Lock> {
        match &self.state {
            State::Issued { lock: Some(lock) } if lock.until > now => Some(lock),
            _ => None,
        }
    }

    /// The state that callers see at this instant.
    pub fn state_name(&self, now: DateTime<Utc>) -> StateName {
        match &self.state {
            State::Redeemed => StateName::Redeemed,
            State::Void => StateName::Void,
            State::Issued { .. } if self.valid_until <= now => StateName::Expired,
            State::Issued { .. } if self.lock_at(now).is_some() => StateName::Locked,
            State::Issued { .. } => StateName::Issued,
        }
    }

    /// Spends one use. A lock counts if it stands now, whenever the use was: a row does not say since when it is locked.
    ///
    /// # Errors
    /// `coupon_void`, `coupon_already_redeemed`, `coupon_locked`, by the transition table. The caller adds what only it
    /// knows, such as the store's name.
    pub fn redeem(self, this: Use, uses_max: i16, now: DateTime<Utc>) -> Result<Self, Code> {
        match &self.state {
            State::Void => Err(Code::CouponVoid),
            State::Redeemed => Err(Code::CouponAlreadyRedeemed),
            State::Issued { .. } if self.uses >= uses_max => Err(Code::CouponAlreadyRedeemed),
            State::Issued { .. } if self.lock_at(now).is_some_and(|lock| lock.order_ref != this.order_ref) => {
                Err(Code::CouponLocked)
            }
            State::Issued { .. } => {
                let uses = self.uses + 1;
                let state = if uses >= uses_max { State::Redeemed } else { State::Issued { lock: None } };
                Ok(Self { uses, state, last_use: Some(this), ..self })
            }
        }
    }

    /// Lets an order hold the coupon, no longer than it is valid. The same order again holds it longer, never shorter.
    ///
    /// # Errors
    /// `coupon_void`, `coupon_already_redeemed`, `coupon_locked` by another order.
    pub fn lock(self, lock: Lock, now: DateTime<Utc>) -> Result<Self, Code> {
        match &self.state {
            State::Void => Err(Code::CouponVoid),
            State::Redeemed => Err(Code::CouponAlreadyRedeemed),
            State::Issued { .. } => match self.lock_at(now) {
                Some(held) if held.order_ref != lock.order_ref => Err(Code::CouponLocked),
                held => {
                    let until = held.map_or(lock.until, |held| held.until.max(lock.until)).min(self.valid_until);
                    Ok(Self { state: State::Issued { lock: Some(Lock { until, ..lock }) }, ..self })
                }
            },
        }
    }

    /// Lets the coupon go; `None` lets go whoever holds it. What is not held stays as it is.
    ///
    /// # Errors
    /// As [`Self::lock`].
    pub fn release(self, order_ref: Option<&str>, now: DateTime<Utc>) -> Result<Self, Code> {
        match &self.state {
            State::Void => Err(Code::CouponVoid),
            State::Redeemed => Err(Code::CouponAlreadyRedeemed),
            State::Issued { .. } => match (self.lock_at(now), order_ref) {
                (None, _) => Ok(self),
                (Some(held), Some(order_ref)) if held.order_ref != order_ref => Err(Code::CouponLocked),
                (Some(_), _) => Ok(Self { state: State::Issued { lock: None }, ..self }),
            },
        }
    }

    /// Makes the coupon void.
    ///
    /// # Errors
    /// `coupon_void`, `coupon_already_redeemed` when uses of it stand: those are reversed first.
    pub fn void(self, reason: String) -> Result<Self, Code> {
        match &self.state {
            State::Void => Err(Code::CouponVoid),
            State::Redeemed => Err(Code::CouponAlreadyRedeemed),
            State::Issued { .. } if self.uses > 0 => Err(Code::CouponAlreadyRedeemed),
            State::Issued { .. } => Ok(Self { state: State::Void, void_reason: Some(reason), ..self }),
        }
    }

    /// Takes one use back.
    ///
    /// # Errors
    /// `coupon_void`, `coupon_not_redeemed`.
    pub fn reverse(self, redemption_id: RedemptionId) -> Result<Self, Code> {
        let state = match &self.state {
            State::Void => return Err(Code::CouponVoid),
            _ if self.uses == 0 => return Err(Code::CouponNotRedeemed),
            State::Redeemed => State::Issued { lock: None },
            State::Issued { .. } => self.state.clone(),
        };
        let last_use = self.last_use.filter(|last| last.redemption_id != redemption_id);
        Ok(Self { uses: self.uses - 1, cycles: self.cycles.saturating_add(1), state, last_use, ..self })
    }

    /// Whether a use may stand on a business day.
    ///
    /// # Errors
    /// `coupon_not_yet_valid`, with the first day, when the coupon was not issued by then.
    pub fn check_business_day(&self, day: Day) -> Result<(), Refusal> {
        let first = first_business_day(self.code_id.day());
        if day < first {
            return Err(Refusal::new(Code::CouponNotYetValid)
                .detail("the business date lies before the coupon's issue")
                .with("first_business_date", first.to_string()));
        }
        Ok(())
    }

    /// Whether the clock allows a use.
    ///
    /// # Errors
    /// `coupon_not_yet_valid`, `coupon_expired`, with the instant.
    pub fn check_validity(&self, now: DateTime<Utc>) -> Result<(), Refusal> {
        if now < self.valid_from {
            return Err(Refusal::new(Code::CouponNotYetValid).with("valid_from", instant(self.valid_from)));
        }
        if now >= self.valid_until {
            return Err(Refusal::new(Code::CouponExpired).with("valid_until", instant(self.valid_until)));
        }
        Ok(())
    }
}

/// The earliest business day of what follows something of that day. It may be the day before: a store's business day can
/// end after midnight, or lie in a zone west of the chain's.
pub fn first_business_day(of: Day) -> Day {
    Day::from_number(of.number() - 1).unwrap_or(of)
}

/// An instant as answers show it: UTC, milliseconds.
pub fn instant(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn coupon(state: State, uses: i16) -> Coupon {
        Coupon {
            code_id: CodeId::from_parts(Day::from_date("2026-11-22".parse().unwrap()), 7).unwrap(),
            rule_id: "1".parse().unwrap(),
            rule_version: 1,
            holder: None,
            issued_at: at(-100),
            valid_from: at(-100),
            valid_until: at(100),
            state,
            uses,
            cycles: 0,
            counted: 1,
            last_use: None,
            issue_store_no: None,
            referrer: None,
            legacy_key: None,
            void_reason: None,
        }
    }

    #[test]
    fn a_use_stands_on_the_day_before_the_issue_at_the_earliest() {
        let coupon = coupon(State::Issued { lock: None }, 0);
        let refused = |date: &str| coupon.check_business_day(Day::from_date(date.parse().unwrap())).err();
        assert_eq!((refused("2026-11-21"), refused("2026-11-22")), (None, None));
        let refusal = refused("2026-11-20").unwrap();
        assert_eq!(
            (refusal.code, &refusal.extra["first_business_date"]),
            (Code::CouponNotYetValid, &"2026-11-21".into())
        );
    }

    #[test]
    fn a_coupon_is_valid_from_its_first_instant_and_not_at_its_last() {
        let coupon = coupon(State::Issued { lock: None }, 0);
        let code = |at| coupon.check_validity(at).err().map(|refusal| refusal.code);
        assert_eq!(code(at(-101)), Some(Code::CouponNotYetValid));
        assert_eq!(code(at(-100)), None);
        assert_eq!(code(at(99)), None);
        assert_eq!(code(at(100)), Some(Code::CouponExpired));
        assert_eq!(coupon.state_name(at(100)), StateName::Expired);
    }
}
