//! What a request may do, decided over locked rows. Pure: no clock, no database, no randomness.
//!
//! The order in which failures are looked for is the one documented in [`super`], and is tested in that order.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;

use super::{
    Coupon, State, StateName, Use,
    answer::by_id,
    instant,
    rule::{RuleState, RuleVersion},
    world::{LedgerKind, MemberRule, Redemption, World},
};
use crate::{
    event::{Kind as EventKind, NewEvent},
    id::{CodeId, EventId, MemberId, RedemptionId, StoreNo},
    member::{Standing, state::Action},
    problem::{Code, Refusal},
};

/// A till spends one use of a coupon.
#[derive(Debug, Clone)]
pub struct Redeem {
    pub code_id: CodeId,
    pub redemption_id: RedemptionId,
    pub event_id: EventId,
    pub store_no: StoreNo,
    pub store_id: Arc<str>,
    pub register: Option<String>,
    pub sequence: Option<i32>,
    pub order_ref: String,
    /// Payable before the discount, smallest unit.
    pub amount: i64,
    /// Checked against the rule's when given.
    pub currency: Option<String>,
    /// Checked against the holder when given.
    pub member_id: Option<MemberId>,
}

/// A till takes a use back.
#[derive(Debug, Clone)]
pub struct Reverse {
    pub code_id: CodeId,
    /// The use to undo.
    pub redemption_id: RedemptionId,
    /// Of the new ledger row.
    pub reversal_id: RedemptionId,
    pub event_id: EventId,
    pub store_no: StoreNo,
    pub store_id: Arc<str>,
    pub register: Option<String>,
    pub sequence: Option<i32>,
    pub order_ref: Option<String>,
}

/// Coupons of a rule are issued, all or none.
#[derive(Debug, Clone)]
pub struct Issue {
    pub rule: Arc<RuleVersion>,
    /// Minted beforehand.
    pub code_ids: Vec<CodeId>,
    pub event_id: EventId,
    pub member_id: Option<MemberId>,
    pub referrer: Option<String>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Redeemed)]
pub struct Redeemed {
    pub redemption_id: RedemptionId,
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String, example = "7K3M-0000-0000-0000")]
    pub code: CodeId,
    /// `redeemed` when the last use is spent, else `issued`.
    pub state: StateName,
    /// Taken off the amount, smallest unit.
    pub discount: i64,
    /// Left to pay, smallest unit.
    pub payable: i64,
    pub currency: String,
    pub uses: i16,
    pub uses_max: i16,
    #[serde(serialize_with = "millis")]
    pub redeemed_at: DateTime<Utc>,
    #[schema(value_type = String)]
    pub store_id: Arc<str>,
    pub order_ref: String,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Reversed)]
pub struct Reversed {
    /// The ledger row of the undo.
    pub redemption_id: RedemptionId,
    /// The use that was undone.
    pub reverses: RedemptionId,
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    /// Taken back, smallest unit.
    pub discount: i64,
    pub currency: String,
    pub uses: i16,
    pub uses_max: i16,
    /// The coupon's time ran out meanwhile: the use is back, and cannot be spent.
    pub expired: bool,
    #[serde(serialize_with = "millis")]
    pub reversed_at: DateTime<Utc>,
    #[schema(value_type = String)]
    pub store_id: Arc<str>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Issued)]
pub struct Issued {
    pub coupons: Vec<IssuedCoupon>,
}

#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct IssuedCoupon {
    #[serde(serialize_with = "by_id")]
    #[schema(value_type = String)]
    pub code: CodeId,
    pub state: StateName,
    #[serde(serialize_with = "millis")]
    pub valid_from: DateTime<Utc>,
    /// Exclusive.
    #[serde(serialize_with = "millis")]
    pub valid_until: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_id: Option<MemberId>,
}

pub(crate) fn millis<S: serde::Serializer>(at: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&instant(*at))
}

/// Spends one use.
///
/// # Errors
/// The first refusal in the order of the table in [`super`].
pub fn redeem(world: &mut World, op: &Redeem) -> Result<Redeemed, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or(Code::CouponNotFound)?;
    let rule = rule_of(world, &coupon);
    let this =
        Use { redemption_id: op.redemption_id, at: world.now, store_no: op.store_no, order_ref: op.order_ref.clone() };
    let after = coupon.clone().redeem(this, rule.uses).map_err(|code| why_not(world, &coupon, code))?;
    if let Some(holder) = coupon.holder {
        check_standing(world.members.get(&holder), holder)?;
    }
    if op.member_id.is_some() && op.member_id != coupon.holder {
        return Err(Code::CouponHolderMismatch.into());
    }
    let rule_state =
        *world.rule_states.get(&coupon.rule_id).expect("the writer loaded the state of every coupon's rule");
    if !rule_state.may_redeem() {
        return Err(Refusal::new(Code::RuleNotActive).with("rule_state", rule_state.name()));
    }
    coupon.check_business_day(op.redemption_id.day())?;
    coupon.check_validity(world.now)?;
    if op.currency.as_ref().is_some_and(|currency| *currency != rule.currency) {
        return Err(Refusal::new(Code::CouponCurrencyMismatch).with("currency", rule.currency.as_str()));
    }
    if op.amount < rule.threshold {
        return Err(Refusal::new(Code::CouponBelowThreshold)
            .with("threshold", rule.threshold)
            .with("missing", rule.threshold - op.amount));
    }
    let discount = rule.discount_on(op.amount);
    let done = Redeemed {
        redemption_id: op.redemption_id,
        code: op.code_id,
        state: after.state_name(world.now),
        discount,
        payable: op.amount - discount,
        currency: rule.currency.clone(),
        uses: after.uses,
        uses_max: rule.uses,
        redeemed_at: world.now,
        store_id: Arc::clone(&op.store_id),
        order_ref: op.order_ref.clone(),
    };
    let row = Redemption {
        redemption_id: op.redemption_id,
        kind: LedgerKind::Redeem,
        code_id: op.code_id,
        rule_id: coupon.rule_id,
        rule_version: coupon.rule_version,
        member_id: coupon.holder,
        recorded_at: world.now,
        amount: op.amount,
        discount,
        reverses: None,
        reversed: 0,
        reversed_whole: false,
        store_no: op.store_no,
        register: op.register.clone(),
        sequence: op.sequence,
        order_ref: op.order_ref.clone(),
    };
    note(world, op.event_id, EventKind::CouponRedeemed, op.code_id, &row, &op.store_id);
    world.changed.new_redemptions.push(row);
    world.put_coupon(after);
    Ok(done)
}

/// Takes one use back, whole.
///
/// # Errors
/// `coupon_not_found`, `coupon_void`, `redemption_not_found`, `redemption_already_reversed`, `coupon_not_redeemed`.
pub fn reverse(world: &mut World, op: &Reverse) -> Result<Reversed, Refusal> {
    let coupon = world.coupons.get(&op.code_id).cloned().ok_or(Code::CouponNotFound)?;
    if coupon.state == State::Void {
        return Err(Code::CouponVoid.into());
    }
    let used = world
        .redemptions
        .get(&op.redemption_id)
        .filter(|row| row.code_id == op.code_id && row.kind == LedgerKind::Redeem)
        .cloned()
        .ok_or(Code::RedemptionNotFound)?;
    if used.reversed_whole {
        return Err(Code::RedemptionAlreadyReversed.into());
    }
    let rule = rule_of(world, &coupon);
    let after = coupon.clone().reverse(op.redemption_id)?;
    let discount = used.discount - used.reversed;
    let done = Reversed {
        redemption_id: op.reversal_id,
        reverses: op.redemption_id,
        code: op.code_id,
        state: after.state_name(world.now),
        discount,
        currency: rule.currency.clone(),
        uses: after.uses,
        uses_max: rule.uses,
        expired: after.valid_until <= world.now,
        reversed_at: world.now,
        store_id: Arc::clone(&op.store_id),
    };
    let row = Redemption {
        redemption_id: op.reversal_id,
        kind: LedgerKind::Reverse,
        recorded_at: world.now,
        discount,
        reverses: Some(op.redemption_id),
        reversed: 0,
        reversed_whole: false,
        store_no: op.store_no,
        register: op.register.clone(),
        sequence: op.sequence,
        order_ref: op.order_ref.clone().unwrap_or_else(|| used.order_ref.clone()),
        ..used.clone()
    };
    note(world, op.event_id, EventKind::CouponReversed, op.code_id, &row, &op.store_id);
    let undone = Redemption { reversed: used.discount, reversed_whole: true, ..used };
    world.changed.redemptions.insert(undone.redemption_id);
    world.redemptions.insert(undone.redemption_id, undone);
    world.changed.new_redemptions.push(row);
    world.put_coupon(after);
    Ok(done)
}

/// Issues coupons, all or none.
///
/// # Errors
/// `member_not_found`, `member_frozen`, `member_cancelled`, `rule_not_active`, `stock_exhausted`,
/// `member_limit_reached`.
pub fn issue(world: &mut World, op: &Issue) -> Result<Issued, Refusal> {
    let rule = &op.rule;
    if let Some(member_id) = op.member_id {
        check_standing(world.members.get(&member_id), member_id)?;
    }
    let rule_state = *world.rule_states.get(&rule.rule_id).expect("the writer loaded the state of every issued rule");
    if rule_state != RuleState::Active {
        return Err(Refusal::new(Code::RuleNotActive).with("rule_state", rule_state.name()));
    }
    let (valid_from, valid_until) = rule.window(world.now, world.zone)?;
    let count = op.code_ids.len() as i64;
    let stock_key = (rule.rule_id, 0, 0);
    let mut stock = *world.stocks.get(&stock_key).expect("the writer locked the stock of every rule it issues");
    let taken = stock.issued - stock.voided;
    if let Some(limit) = rule.stock
        && taken + count > limit
    {
        return Err(Refusal::new(Code::StockExhausted).with("left", (limit - taken).max(0)));
    }
    if let Some(member_id) = op.member_id {
        let key = (member_id, rule.rule_id);
        let MemberRule { taken, .. } =
            *world.member_rules.get(&key).expect("the writer locked the count of every member it issues to");
        let limit = rule.per_member.unwrap_or(i32::MAX);
        let after = i32::try_from(count).ok().and_then(|count| taken.checked_add(count));
        let Some(after) = after.filter(|after| *after <= limit) else {
            return Err(Refusal::new(Code::MemberLimitReached).with("limit", limit).with("taken", taken));
        };
        world.member_rules.insert(key, MemberRule { taken: after, last_taken_at: Some(world.now) });
        world.changed.member_rules.insert(key);
    }
    stock.issued += count;
    world.stocks.insert(stock_key, stock);
    world.changed.stocks.insert(stock_key);

    let mut coupons = Vec::with_capacity(op.code_ids.len());
    for code_id in &op.code_ids {
        let coupon = Coupon {
            code_id: *code_id,
            rule_id: rule.rule_id,
            rule_version: rule.version,
            holder: op.member_id,
            issued_at: world.now,
            valid_from,
            valid_until,
            state: State::Issued { lock: None },
            uses: 0,
            cycles: 0,
            last_use: None,
            issue_store_no: None,
            referrer: op.referrer.clone(),
            legacy_key: None,
        };
        coupons.push(IssuedCoupon {
            code: *code_id,
            state: coupon.state_name(world.now),
            valid_from,
            valid_until,
            member_id: op.member_id,
        });
        world.changed.new_coupons.push(coupon);
    }
    world.changed.events.push(NewEvent {
        event_id: op.event_id,
        kind: EventKind::CouponsIssued,
        subject: rule.rule_id.get(),
        body: json!({
            "rule_id": rule.rule_id,
            "rule_version": rule.version,
            "member_id": op.member_id,
            "count": count,
            "codes": op.code_ids.iter().take(1).collect::<Vec<_>>(),
        }),
    });
    Ok(Issued { coupons })
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

fn check_standing(standing: Option<&Standing>, member_id: MemberId) -> Result<(), Refusal> {
    match standing {
        None => Err(Refusal::new(Code::MemberNotFound).with("member_id", member_id.to_string())),
        Some(standing) => standing.may(Action::UseCoupons),
    }
}

fn rule_of(world: &World, coupon: &Coupon) -> Arc<RuleVersion> {
    Arc::clone(
        world.rules.get(&(coupon.rule_id, coupon.rule_version)).expect("the writer loaded the rule of every coupon"),
    )
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
    });
    world.changed.events.push(NewEvent { event_id, kind, subject: code_id.get(), body });
}
