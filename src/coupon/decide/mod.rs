//! What a request may do, decided over locked rows. Pure: no clock, no database, no randomness.
//!
//! The order in which failures are looked for is the one documented in [`super`], and is tested in that order in `tests`.

mod basket;
mod hold;
mod issue;
mod limit;
mod many;
mod redeem;
mod reverse;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;

pub use self::{
    basket::{Basket, BasketRedeemed, redeem_basket},
    hold::{Bind, Bound, Held, Hold, Lock, Release, Void, Voided, bind, lock, release, void},
    issue::{Issue, Issued, IssuedCoupon, issue},
    limit::{Part, parts_of_issue, parts_of_use},
    many::{Undone, Why, Wish, admit, take_stock_of, undo},
    redeem::{Line, Redeem, Redeemed, redeem},
    reverse::{Returned, Reverse, Reversed, reverse},
};
use super::{
    Coupon, instant,
    rule::{Rule, RuleState, RuleVersion},
    world::{Redemption, World},
};
use crate::{
    event::{Kind as EventKind, NewEvent},
    id::{CodeId, EventId, MemberId, StoreNo},
    member::{Standing, state::Action},
    problem::{Code, Refusal},
};

/// Which till acts.
#[derive(Debug, Clone)]
pub struct Place {
    pub store_no: StoreNo,
    pub store_id: Arc<str>,
    /// The regions that the store is in, directly or through others.
    pub regions: Arc<[Arc<str>]>,
    pub register: Option<String>,
    pub sequence: Option<i32>,
}

pub(crate) fn millis<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&instant(*at))
}

/// Adds to a refusal what the rows know: when and where, until when.
fn why_not(world: &World, coupon: &Coupon, code: Code) -> Refusal {
    let refusal = Refusal::new(code);
    match (code, &coupon.last_use) {
        (Code::CouponAlreadyRedeemed, Some(last)) => refusal
            .with("redeemed_at", instant(last.at))
            .with("store_id", world.stores.get(&last.store_no).map_or("?", |name| &**name))
            .with("redemption_id", last.redemption_id.to_string())
            .with("order_ref", last.order_ref.as_str()),
        (Code::CouponLocked, _) => match coupon.lock_at(world.now) {
            Some(lock) => refusal.with("locked_until", instant(lock.until)),
            None => refusal,
        },
        _ => refusal,
    }
}

fn check_standing(standing: Option<&Standing>, member_id: MemberId, action: Action) -> Result<(), Refusal> {
    match standing {
        None => Err(Refusal::new(Code::MemberNotFound).with("member_id", member_id.to_string())),
        Some(standing) => standing.may(action),
    }
}

/// The version that a coupon was issued with.
fn rule_of(world: &World, coupon: &Coupon) -> Arc<RuleVersion> {
    Arc::clone(
        world.rules.get(&(coupon.rule_id, coupon.rule_version)).expect("the writer loaded the rule of every coupon"),
    )
}

/// A rule as it is now: its state and its limits.
fn head_of(world: &World, rule_id: crate::id::RuleId) -> Arc<Rule> {
    Arc::clone(world.heads.get(&rule_id).expect("the writer loaded the head of every rule that a batch speaks of"))
}

/// What stands against using a coupon, be it spent or held: the part of the precedence that both share.
///
/// A till that was cut off could not learn of a pause: a use that is sent afterwards is refused for one only if the rule
/// has stood as it is since before the use. What the state was before that, nobody knows any more.
fn check_usable(
    world: &World,
    coupon: &Coupon,
    member_id: Option<MemberId>,
    place: &Place,
    action: Action,
    occurred_at: Option<DateTime<Utc>>,
) -> Result<(), Refusal> {
    if let Some(holder) = coupon.holder {
        check_standing(world.members.get(&holder), holder, action)?;
        if member_id.is_some_and(|member_id| member_id != holder) {
            return Err(Code::CouponHolderMismatch.into());
        }
    }
    let head = head_of(world, coupon.rule_id);
    let state = if occurred_at.is_some_and(|at| at < head.updated_at) { RuleState::Active } else { head.state };
    check_rule(&rule_of(world, coupon), state, Some(place))
}

/// Whether coupons of a rule may be used, at a store if there is one.
///
/// # Errors
/// `rule_not_active`, `coupon_not_for_store`.
pub(super) fn check_rule(rule: &RuleVersion, state: RuleState, place: Option<&Place>) -> Result<(), Refusal> {
    if !state.may_redeem() {
        return Err(Refusal::new(Code::RuleNotActive).with("rule_state", state.name()));
    }
    match place {
        Some(place) if !rule.places.has(place.store_no, &place.regions) => {
            Err(Refusal::new(Code::CouponNotForStore).with("store_id", &*place.store_id))
        }
        _ => Ok(()),
    }
}

/// What a use takes off an amount.
///
/// # Errors
/// `coupon_currency_mismatch`, `coupon_below_threshold` with what is `missing`.
pub(super) fn check_sale(rule: &RuleVersion, amount: i64, currency: Option<&str>) -> Result<i64, Refusal> {
    if currency.is_some_and(|currency| currency != rule.currency) {
        return Err(Refusal::new(Code::CouponCurrencyMismatch).with("currency", rule.currency.as_str()));
    }
    if amount < rule.threshold {
        return Err(Refusal::new(Code::CouponBelowThreshold)
            .with("threshold", rule.threshold)
            .with("missing", rule.threshold - amount));
    }
    Ok(rule.discount.on(amount))
}

fn note(world: &mut World, event_id: EventId, kind: EventKind, code_id: CodeId, row: &Redemption, store_id: &str) {
    let body = json!({
        "redemption_id": row.redemption_id,
        "reverses": row.reverses,
        "rule_id": row.rule_id,
        "member_id": row.member_id,
        "store_id": store_id,
        "order_ref": row.order_ref,
        "discount": row.discount,
        "occurred_at": row.occurred_at.map(instant),
    });
    world.changed.events.push(NewEvent { event_id, kind, subject: code_id.get(), body });
}
