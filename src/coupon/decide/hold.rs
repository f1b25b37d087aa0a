//! What changes a coupon without spending it: lock, release, void, bind.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;

use super::{
    Place, check_standing, check_usable,
    limit::{Part, give_stock},
    millis, why_not,
};
use crate::{
    coupon::{
        self, Coupon, State, StateName,
        answer::by_id,
        world::{MemberRule, World},
    },
    event::{Kind as EventKind, NewEvent},
    id::{CodeId, EventId, MemberId},
    member::state::Action,
    problem::{Code, Refusal},
};

/// An order holds a coupon for a while.
#[derive(Debug, Clone)]
pub struct Lock {
    pub code_id: CodeId,
    pub event_id: EventId,
    pub place: Place,
    pub order_ref: String,
    pub ttl: TimeDelta,
    /// Checked against the holder when both are given.
    pub member_id: Option<MemberId>,
}

/// An order lets a coupon go: the sale was suspended, cancelled or not paid.
#[derive(Debug, Clone)]
pub struct Release {
    pub code_id: CodeId,
    pub event_id: EventId,
    /// `None` lets go whoever holds it; for operators.
    pub order_ref: Option<String>,
}

/// A coupon is made void, for a reason.
#[derive(Debug, Clone)]
pub struct Void {
    pub code_id: CodeId,
    pub event_id: EventId,
    pub reason: String,
}

/// A coupon without a holder is given to a member.
#[derive(Debug, Clone)]
pub struct Bind {
    pub code_id: CodeId,
    pub event_id: EventId,
    pub member_id: MemberId,
}

/// Who holds a coupon until when.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Hold {
    /// Not shown to tills that look a coupon up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub order_ref: Option<String>,
    #[serde(serialize_with = "millis")]
    pub until: DateTime<Utc>,
}

impl From<&coupon::Lock> for Hold {
    fn from(lock: &coupon::Lock) -> Self {
        Self { order_ref: Some(lock.order_ref.clone()), until: lock.until }
    }
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Held)]
pub struct Held {
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lock: Option<Hold>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Voided)]
pub struct Voided {
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    #[serde(serialize_with = "millis")]
    pub voided_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Bound)]
pub struct Bound {
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    pub member_id: MemberId,
}

/// Holds a coupon for an order. The same order may lock again, which prolongs it and never shortens it; no lock outlasts
/// the coupon.
///
/// # Errors
/// Those of redeeming up to `coupon_expired`, in its order.
pub fn lock(world: &mut World, op: &Lock) -> Result<Held, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or_else(|| world.missing(op.code_id))?;
    let lock = coupon::Lock { order_ref: op.order_ref.clone(), until: world.now + op.ttl };
    let after = coupon.clone().lock(lock, world.now).map_err(|code| why_not(world, &coupon, code))?;
    check_usable(world, &coupon, op.member_id, &op.place, Action::Lock, None)?;
    coupon.check_validity(world.now)?;
    tell(
        world,
        op.event_id,
        EventKind::CouponLocked,
        &after,
        json!({ "order_ref": op.order_ref, "store_id": op.place.store_id }),
    );
    let held =
        Held { code: op.code_id, state: after.state_name(world.now), lock: after.lock_at(world.now).map(Hold::from) };
    world.put_coupon(after);
    Ok(held)
}

/// Lets a coupon go. One that is not locked, or whose lock ran out, stays as it is.
///
/// # Errors
/// `coupon_not_found`, `coupon_void`, `coupon_already_redeemed`, `coupon_locked` by another order.
pub fn release(world: &mut World, op: &Release) -> Result<Held, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or_else(|| world.missing(op.code_id))?;
    let after =
        coupon.clone().release(op.order_ref.as_deref(), world.now).map_err(|code| why_not(world, &coupon, code))?;
    let held = Held { code: op.code_id, state: after.state_name(world.now), lock: None };
    if after.state != coupon.state {
        tell(world, op.event_id, EventKind::CouponReleased, &after, json!({ "order_ref": op.order_ref }));
        world.put_coupon(after);
    }
    Ok(held)
}

/// Makes a coupon void and gives it back to the stock that it was taken from, and to the member's limit.
///
/// # Errors
/// `coupon_not_found`, `coupon_void`, `coupon_already_redeemed`: one with uses that stand is reversed first.
pub fn void(world: &mut World, op: &Void) -> Result<Voided, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or_else(|| world.missing(op.code_id))?;
    let after = coupon.clone().void(op.reason.clone()).map_err(|code| why_not(world, &coupon, code))?;
    let from = Part::counted(coupon.counted, coupon.code_id.day(), coupon.issue_store_no);
    give_stock(world, coupon.rule_id, &from);
    if let Some(holder) = coupon.holder {
        let key = (holder, coupon.rule_id);
        // A holder without a row has no count to lower.
        if let Some(count) = world.member_rules.get_mut(&key) {
            count.taken -= 1;
            world.changed.member_rules.insert(key);
        }
    }
    tell(world, op.event_id, EventKind::CouponVoided, &after, json!({ "reason": op.reason }));
    let voided = Voided { code: op.code_id, state: after.state_name(world.now), voided_at: world.now };
    world.put_coupon(after);
    Ok(voided)
}

/// Gives a coupon without a holder to a member. The same member again changes nothing.
///
/// # Errors
/// `coupon_not_found`, `coupon_void`, `coupon_already_redeemed`, `coupon_held`, `coupon_locked`, `member_not_found`,
/// `member_frozen`, `member_cancelled`, `coupon_expired`, `member_limit_reached`.
pub fn bind(world: &mut World, op: &Bind) -> Result<Bound, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or_else(|| world.missing(op.code_id))?;
    let done = Bound { code: op.code_id, state: coupon.state_name(world.now), member_id: op.member_id };
    match coupon.holder {
        Some(holder) if holder == op.member_id => return Ok(done),
        Some(_) => return Err(Code::CouponHeld.into()),
        None => {}
    }
    match &coupon.state {
        State::Void => return Err(Code::CouponVoid.into()),
        State::Redeemed => return Err(why_not(world, &coupon, Code::CouponAlreadyRedeemed)),
        State::Issued { .. } if coupon.lock_at(world.now).is_some() => {
            return Err(why_not(world, &coupon, Code::CouponLocked));
        }
        State::Issued { .. } => {}
    }
    check_standing(world.members.get(&op.member_id), op.member_id, Action::BeIssued)?;
    if coupon.valid_until <= world.now {
        return Err(Refusal::new(Code::CouponExpired).with("valid_until", coupon::instant(coupon.valid_until)));
    }
    take_of_member(world, coupon.rule_id, op.member_id, 1)?;
    tell(world, op.event_id, EventKind::CouponBound, &coupon, json!({ "member_id": op.member_id }));
    world.changed.bound.insert(op.code_id);
    world.put_coupon(Coupon { holder: Some(op.member_id), ..coupon });
    Ok(done)
}

/// Counts coupons of a rule towards a member's limit.
///
/// # Errors
/// `member_limit_reached` with the `limit` and what is `taken` of it.
pub(super) fn take_of_member(
    world: &mut World,
    rule_id: crate::id::RuleId,
    member_id: MemberId,
    count: i64,
) -> Result<(), Refusal> {
    let limit = super::head_of(world, rule_id).current.per_member.unwrap_or(i32::MAX);
    let key = (member_id, rule_id);
    let MemberRule { taken, .. } =
        *world.member_rules.get(&key).expect("the writer locked the count of every member that is given coupons");
    let after = i32::try_from(count).ok().and_then(|count| taken.checked_add(count));
    let Some(after) = after.filter(|after| *after <= limit) else {
        return Err(Refusal::new(Code::MemberLimitReached).with("limit", limit).with("taken", taken));
    };
    world.member_rules.insert(key, MemberRule { taken: after, last_taken_at: Some(world.now) });
    world.changed.member_rules.insert(key);
    Ok(())
}

fn tell(world: &mut World, event_id: EventId, kind: EventKind, coupon: &Coupon, mut body: serde_json::Value) {
    body["rule_id"] = json!(coupon.rule_id);
    world.changed.events.push(NewEvent { event_id, kind, subject: coupon.code_id.get(), body });
}
