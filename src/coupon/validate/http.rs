//! Asking beforehand over HTTP.

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::ToSchema;

use super::Validated;
use crate::{
    app::App,
    coupon::{
        desk::RedeemRequest,
        http::{Amount, CodeText, OrderRef, SaleLine, read_lines, window},
        rule_body::Currency,
        till::{Register, TillFields},
    },
    http::{Answer, ApiError, At, Caller, Json, Reply, Routes, app::Shell, input::present},
    id::MemberId,
    request::Operation,
};

pub fn routes() -> Routes {
    crate::routes! {
        validate_coupon: CouponCodeInvalid, TooManyBadCodes, StoreNotFound, CouponNotFound, CouponRetired;
    }
}

/// A sale, as redeeming would be told of it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ValidateBody {
    store_id: crate::chain::StoreId,
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    register: Option<Register>,
    /// The store's business day; today in the chain's zone if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    business_date: Option<chrono::NaiveDate>,
    /// The order that may hold the coupon.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    order_ref: Option<OrderRef>,
    /// Payable before the discount, smallest unit.
    amount: Amount,
    /// What the amount is made of; their amounts add up to it.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false, min_items = 1, max_items = 200)]
    lines: Option<Vec<SaleLine>>,
    /// Checked against the rule's, when given.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    currency: Option<Currency>,
    /// Checked against the holder, when both are given.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
}

/// Ask what redeeming would say
///
/// Nothing is written, and nothing is promised: a lock is what holds a coupon. `why` is the code that redeeming would be
/// refused with now, in its order; what would stop it before it looks at the coupon (a suspended store, an unknown
/// register) is told in the same way. Checked in this order: code, store, business date, lines, not found.
#[utoipa::path(post, path = "/v1/coupons/{code}/validate", tag = "coupons", params(("code" = inline(CodeText), Path)),
    responses((status = 200, description = "What redeeming would say", body = Validated)))]
async fn validate_coupon(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(code): At<CodeText>,
    Json(body): Json<ValidateBody>,
) -> Reply<Validated> {
    let code_id = code.read(&app, &shell, &caller).await?;
    caller.must_be_at(&body.store_id)?;
    let store = app.stores.get(&body.store_id).await?;
    let window = window(&app, &shell);
    let fields = TillFields {
        store_id: &body.store_id,
        register: body.register.as_ref(),
        business_date: body.business_date,
        sequence: None,
    };
    let till = fields.till(&store, &window)?;
    let lines = read_lines(body.lines.as_ref(), body.amount.get())?;
    if let Some(refusal) = till.refused_at(&store, Operation::Redeem, &window) {
        return Ok(Answer::ok(Validated::refused(app.desk.secrets.codes().format(code_id), None, refusal)));
    }
    let ask = RedeemRequest {
        code_id,
        till,
        // No order has an empty name, so that a lock is another's.
        order_ref: body.order_ref.map(OrderRef::into_string).unwrap_or_default(),
        amount: body.amount.get(),
        lines,
        currency: body.currency.map(Currency::into_string),
        member_id: body.member_id,
    };
    let (validated, meter) = app.desk.validate(ask).await.map_err(ApiError::from)?;
    Ok(Answer::ok(validated).metered(meter))
}
