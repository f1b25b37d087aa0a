//! What happens to coupons besides being spent one at a time: lock, release, void, bind, claim, baskets.

use actix_web::web::Data;
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    decide::{BasketRedeemed, Bound, Held, Issued, Voided},
    desk::{BasketRequest, IssueRequest, LockRequest},
    http::{Amount, CodeText, OrderRef, window},
    till::{refused_at_own_store, till_body},
};
use crate::{
    app::App,
    chain::key::Role,
    http::{
        ApiError, At, Caller, Json, Number, Reply, Routes, TillNumber,
        app::Shell,
        input::{Int, present},
        number::NumberText,
    },
    id::{MemberId, RuleId},
    problem::Refusal,
    request::{self, Operation, store::Ticket},
    text_type,
};

text_type! {
    /// Why a coupon is made void.
    VoidReason: text 1..=200, "printed twice";
}

/// Seconds that a lock lasts when none are asked for.
const LOCK_SECS: i64 = 900;
/// Coupons of one sale.
pub const BASKET_MAX: usize = 20;

pub fn routes() -> Routes {
    crate::routes! {
        lock_coupon: CouponCodeInvalid, TooManyBadCodes, StoreNotFound, StoreClosed, StoreSuspended, RegisterNotFound, CouponNotFound, CouponRetired, CouponVoid,
            CouponAlreadyRedeemed, CouponLocked, MemberFrozen, MemberCancelled, MemberKindForbidden, CouponHolderMismatch, RuleNotActive,
            CouponNotForStore, CouponNotYetValid, CouponExpired;
        release_coupon: CouponCodeInvalid, TooManyBadCodes, CouponNotFound, CouponRetired, CouponVoid, CouponAlreadyRedeemed,
            CouponLocked;
        void_coupon: CouponCodeInvalid, TooManyBadCodes, CouponNotFound, CouponRetired, CouponVoid, CouponAlreadyRedeemed;
        bind_coupon: CouponCodeInvalid, TooManyBadCodes, StoreClosed, StoreSuspended, CouponNotFound, CouponRetired, CouponHeld, CouponVoid, CouponAlreadyRedeemed,
            CouponLocked, MemberNotFound, MemberFrozen, MemberCancelled, MemberKindForbidden, CouponExpired, MemberLimitReached;
        claim_coupon: RuleNotFound, StoreClosed, StoreSuspended, MemberNotFound, MemberFrozen, MemberCancelled, MemberKindForbidden, RuleNotActive, RuleNotClaimable,
            StockExhausted, MemberLimitReached;
        redeem_basket: CouponCodeInvalid, TooManyBadCodes, StoreNotFound, StoreClosed, StoreSuspended, RegisterNotFound, CouponNotFound, CouponRetired, CouponVoid,
            CouponAlreadyRedeemed, CouponLocked, MemberFrozen, MemberCancelled, MemberKindForbidden, CouponHolderMismatch, RuleNotActive,
            CouponNotForStore, CouponNotYetValid, CouponExpired, CouponCurrencyMismatch, CouponBelowThreshold,
            BudgetExhausted;
    }
}

till_body! {
    /// An order holds a coupon.
    LockBody {}
    /// The store's business day; today in the chain's zone if absent.
    business_date
    {
        order_ref: OrderRef,
        /// How long, in seconds; 900 if absent. The same order may lock again.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        ttl_secs: Option<Int<1, 86_400>>,
        /// Checked against the holder, when both are given.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        member_id: Option<MemberId>,
    }
}

/// Lock a coupon
///
/// For an order that is being paid: no other order can redeem or lock it until the order redeems it, releases it, or its
/// time or the coupon's is up. The same order may lock again, which prolongs it and never shortens it. Orders are compared
/// by `order_ref` alone. Refusals are looked for in the order of redeeming, up to 'expired'.
#[utoipa::path(post, path = "/v1/coupons/{code}/lock", tag = "coupons",
    params(("code" = inline(CodeText), Path), ("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number, if the body has no sequence")),
    responses((status = 200, description = "The coupon, locked", body = Held)))]
async fn lock_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(code): At<CodeText>,
    Json(body): Json<LockBody>,
) -> Reply<Held> {
    let code_id = code.read(&app, &shell, &caller).await?;
    let (till, number, refusal) = body.till().read(&app, &shell, &caller, &number, Operation::Lock).await?;
    let ticket = Ticket { number, digest: request::digest(&(code_id, &body)) };
    if let Some(refusal) = refusal {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let ask = LockRequest {
        code_id,
        till,
        order_ref: body.order_ref.into_string(),
        ttl: TimeDelta::seconds(body.ttl_secs.map_or(LOCK_SECS, Int::get)),
        member_id: body.member_id,
    };
    let (answer, cost) = app.desk.lock(ticket, ask).await?;
    answer.reply(cost)
}

/// An order lets a coupon go.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReleaseBody {
    /// The order that holds it. Only ops and admin may leave it out, and let go whoever holds it.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    order_ref: Option<OrderRef>,
}

/// Release a coupon
///
/// When the sale is suspended, cancelled or not paid. A coupon that is not locked, or whose lock ran out, stays as it is,
/// and that is no error.
/// Checked in this order: code, role (without `order_ref`), request number, not found, void, already redeemed, locked by
/// another order.
#[utoipa::path(post, path = "/v1/coupons/{code}/release", tag = "coupons",
    params(("code" = inline(CodeText), Path), ("Idempotency-Key" = inline(NumberText), Header, description = "The request's number")),
    responses((status = 200, description = "The coupon, free", body = Held)))]
async fn release_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(code): At<CodeText>,
    Json(body): Json<ReleaseBody>,
) -> Reply<Held> {
    let code_id = code.read(&app, &shell, &caller).await?;
    if body.order_ref.is_none() {
        caller.must(&[Role::Ops, Role::Admin])?;
    }
    let number = number.of(&caller, Operation::Release, TillNumber::default(), &window(&app, &shell))?;
    let ticket = Ticket { number, digest: request::digest(&(code_id, &body)) };
    let (answer, cost) = app.desk.release(ticket, code_id, body.order_ref.map(OrderRef::into_string)).await?;
    answer.reply(cost)
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VoidBody {
    reason: VoidReason,
}

/// Make a coupon void
///
/// For good. It goes back to the stock that it was taken from and no longer counts towards its holder's limit. One with a
/// use that stands is reversed first. Checked in this order: reason, code, request number,
/// not found, void, already redeemed.
#[utoipa::path(post, path = "/v1/coupons/{code}/void", tag = "coupons",
    params(("code" = inline(CodeText), Path), ("Idempotency-Key" = inline(NumberText), Header, description = "The request's number")),
    responses((status = 200, description = "The coupon, void", body = Voided)))]
async fn void_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(code): At<CodeText>,
    Json(body): Json<VoidBody>,
) -> Reply<Voided> {
    if crate::member::names_somebody(body.reason.as_str()) {
        return Err(ApiError::invalid_field("reason", "must not name a phone number or an e-mail"));
    }
    let code_id = code.read(&app, &shell, &caller).await?;
    let number = number.of(&caller, Operation::Void, TillNumber::default(), &window(&app, &shell))?;
    let ticket = Ticket { number, digest: request::digest(&(code_id, &body)) };
    let (answer, cost) = app.desk.void(ticket, code_id, body.reason.into_string()).await?;
    answer.reply(cost)
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BindBody {
    member_id: MemberId,
}

/// Bind a coupon to a member
///
/// A coupon without a holder gets one, for good; it counts towards the member's limit. The same member again changes
/// nothing. Checked in this order: code, request number, of a till's key its store, not found, another holder, void, already redeemed, locked, member,
/// expired, limit per member.
#[utoipa::path(post, path = "/v1/coupons/{code}/bind", tag = "coupons",
    params(("code" = inline(CodeText), Path), ("Idempotency-Key" = inline(NumberText), Header, description = "The request's number")),
    responses((status = 200, description = "The coupon with its holder", body = Bound)))]
async fn bind_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(code): At<CodeText>,
    Json(body): Json<BindBody>,
) -> Reply<Bound> {
    let code_id = code.read(&app, &shell, &caller).await?;
    let number = number.of(&caller, Operation::Bind, TillNumber::default(), &window(&app, &shell))?;
    let ticket = Ticket { number, digest: request::digest(&(code_id, &body)) };
    if let Some(refusal) = refused_at_own_store(&app, &shell, &caller, Operation::Bind).await? {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let (answer, cost) = app.desk.bind(ticket, code_id, body.member_id).await?;
    answer.reply(cost)
}

#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimBody {
    member_id: MemberId,
}

/// Claim a coupon
///
/// A member takes one coupon of a rule that is open to that. Checked in this order: request number, of a till's key
/// its store, the rule exists, member, rule is active, rule is claimable, stock, limit per member.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/claim", tag = "coupons",
    params(("rule_id" = RuleId, Path), ("Idempotency-Key" = inline(NumberText), Header, description = "The request's number")),
    responses((status = 201, description = "The coupon", body = Issued)))]
async fn claim_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    At(rule_id): At<RuleId>,
    Json(body): Json<ClaimBody>,
) -> Reply<Issued> {
    let number = number.of(&caller, Operation::Claim, TillNumber::default(), &window(&app, &shell))?;
    let ticket = Ticket { number, digest: request::digest(&(rule_id, &body)) };
    if let Some(refusal) = refused_at_own_store(&app, &shell, &caller, Operation::Claim).await? {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let ask = IssueRequest {
        rule_id,
        member_id: Some(body.member_id),
        count: 1,
        store_no: caller.store.as_ref().map(|(store_no, _)| *store_no),
        referrer: None,
        claimed: true,
        issued_on: None,
    };
    let (answer, cost) = app.desk.issue(ticket, ask).await?;
    answer.reply(cost)
}

/// A coupon of a sale.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BasketCoupon {
    /// Its spellings are many: the id stands in the request's digest instead.
    #[serde(serialize_with = "crate::http::input::nothing")]
    code: CodeText,
    /// The part of the amount that it may be taken off; all of it if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    amount: Option<Amount>,
}

till_body! {
    /// A till spends several coupons in one sale.
    BasketBody {}
    /// The store's business day; today in the chain's zone if absent.
    business_date
    {
        order_ref: OrderRef,
        /// Payable before any discount, smallest unit.
        amount: Amount,
        /// In the order in which they are taken off.
        #[schema(min_items = 1, max_items = 20)]
        coupons: Vec<BasketCoupon>,
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        currency: Option<super::rule_body::Currency>,
        /// Checked against the holder of each, when both are given.
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        member_id: Option<MemberId>,
    }
}

const _: () = assert!(BASKET_MAX == 20, "the schema above says so");

/// Redeem several coupons at once
///
/// All or none: a refusal names the `position` of the first that cannot be spent, and nothing has happened. Each is taken
/// off its part of the amount, in the order given, and never more than is still payable. Checked as redeeming one.
#[utoipa::path(post, path = "/v1/redemptions", tag = "coupons",
    params(("Idempotency-Key" = inline(Option<NumberText>), Header, description = "The request's number, if the body has no sequence")),
    responses((status = 200, description = "The uses", body = BasketRedeemed)))]
async fn redeem_basket(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    number: Number,
    Json(body): Json<BasketBody>,
) -> Reply<BasketRedeemed> {
    if body.coupons.is_empty() || body.coupons.len() > BASKET_MAX {
        return Err(ApiError::invalid_field("coupons", format!("must be 1 to {BASKET_MAX}")));
    }
    let mut coupons = Vec::with_capacity(body.coupons.len());
    for (position, coupon) in body.coupons.iter().enumerate() {
        let code_id = coupon.code.read(&app, &shell, &caller).await?;
        if coupons.iter().any(|(known, _)| *known == code_id) {
            let refusal = Refusal::invalid_field(&format!("coupons[{position}].code"), "was given before");
            return Err(refusal.into());
        }
        let amount = coupon.amount.unwrap_or(body.amount).get();
        if amount > body.amount.get() {
            let refusal =
                Refusal::invalid_field(&format!("coupons[{position}].amount"), "is more than the whole amount");
            return Err(refusal.into());
        }
        coupons.push((code_id, amount));
    }
    let (till, number, refusal) = body.till().read(&app, &shell, &caller, &number, Operation::Redeem).await?;
    let ticket = Ticket { number, digest: request::digest(&(&coupons, &body)) };
    if let Some(refusal) = refusal {
        let (answer, cost) = app.desk.refuse(ticket, refusal).await?;
        return answer.reply(cost);
    }
    let ask = BasketRequest {
        till,
        order_ref: body.order_ref.into_string(),
        amount: body.amount.get(),
        coupons,
        currency: body.currency.map(super::rule_body::Currency::into_string),
        member_id: body.member_id,
    };
    let (answer, cost) = app.desk.redeem_basket(ticket, ask).await?;
    answer.reply(cost)
}
