//! A member's coupons over HTTP: the wallet, and the list.

use std::sync::Arc;

use actix_web::web::Data;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Basket, EXAMINED_MAX, Held, HeldKey, Wallet};
use crate::{
    app::App,
    chain::{StoreId, deed::Deed},
    coupon::{
        StateName,
        decide::{Place, millis},
        http::Amount,
        list::ListState,
        rule_body::Currency,
    },
    http::{
        Answer, ApiError, At, Caller, Cursor, Json, Page, PageLimit, Query, Reply, Routes, app::Shell, input::present,
        page::limit_of,
    },
    id::{CodeId, Day, MemberId, RuleId},
    member::{Standing, cache::Shown, http::metered},
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        get_wallet: MemberNotFound, StoreNotFound, StoreClosed;
        list_member_coupons: MemberNotFound;
    }
}

/// A basket, or nothing.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WalletBody {
    /// Payable before any discount, smallest unit. Without it nothing is said of savings.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    amount: Option<Amount>,
    /// Of the amount; a coupon in another currency does not apply.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    currency: Option<Currency>,
    /// Where the sale is; a till's own store if absent. Coupons that may not be used there do not apply.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    store_id: Option<StoreId>,
}

/// See what a member can use now
///
/// The coupons that are issued and have not expired; with a basket what each would take off it, the best first, and what
/// those that do not apply would be refused with, a store that is not theirs among it. Of very many coupons the newest 2,000 are looked at and 200 shown. A
/// lock by another order does not show here. Checked in this order: path, body, store, whether the member exists.
#[utoipa::path(post, path = "/v1/members/{member_id}/wallet", tag = "members", params(("member_id" = MemberId, Path)),
    responses((status = 200, description = "The usable coupons", body = Wallet)))]
async fn get_wallet(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(member_id): At<MemberId>,
    Json(body): Json<WalletBody>,
) -> Reply<Wallet> {
    let place = till_place(&app, &shell, &caller, body.store_id.as_ref()).await?;
    let currency = body.currency.map(Currency::into_string);
    let basket = body.amount.map(|amount| Basket { amount: amount.get(), currency });
    let (found, cost) = app.members.find(member_id).await?;
    let Some(shown) = found else { return Err(ApiError::from(Code::MemberNotFound).metered(cost.into())) };
    let (wallet, spent) = app.desk.wallet(member_id, standing(&shown), place.as_ref(), basket.as_ref()).await?;
    let mut meter = metered(cost);
    meter.cached = false;
    meter += spent;
    Ok(Answer::ok(wallet).metered(meter))
}

/// Where the sale is: at the store that is named, else at the caller's own.
///
/// # Errors
/// `store_forbidden`, `store_not_found`, `store_closed`.
pub(crate) async fn till_place(
    app: &App,
    shell: &Shell,
    caller: &Caller,
    named: Option<&StoreId>,
) -> Result<Option<Place>, ApiError> {
    let Some(store_id) = named.or(caller.store.as_ref().map(|(_, own)| own)) else { return Ok(None) };
    caller.must_be_at(store_id)?;
    let store = app.stores.get(store_id).await?;
    store.may(Deed::LookUp, shell.zone.day_of(shell.clock.now()).to_date())?;
    Ok(Some(Place {
        store_no: store.store_no,
        store_id: store_id.as_str().into(),
        regions: Arc::clone(&store.regions),
        register: None,
        sequence: None,
    }))
}

/// What a member's state allows, as memory has it: redeeming asks the row.
pub(crate) fn standing(shown: &Shown) -> Standing {
    let member = &shown.member;
    Standing { state: member.state, kind: member.kind, muted: member.muted }
}

#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct HeldList {
    /// Only coupons of this state.
    #[param(inline)]
    state: Option<ListState>,
    /// Only coupons of this rule.
    #[param(inline)]
    rule_id: Option<RuleId>,
    /// Only coupons whose time ends at this instant or later.
    #[param(inline)]
    valid_until_from: Option<DateTime<Utc>>,
    /// Only coupons whose time ends before this instant.
    #[param(inline)]
    valid_until_before: Option<DateTime<Utc>>,
    #[param(inline)]
    #[serde(serialize_with = "crate::http::input::nothing")]
    cursor: Option<Cursor>,
    /// Coupons a page; 50 if absent.
    #[param(inline)]
    #[serde(serialize_with = "crate::http::input::nothing")]
    limit: Option<PageLimit>,
}

impl HeldList {
    fn is_any(&self) -> bool {
        let Self { state, rule_id, valid_until_from, valid_until_before, .. } = self;
        state.is_none() && rule_id.is_none() && valid_until_from.is_none() && valid_until_before.is_none()
    }

    fn has(&self, coupon: &Held, now: DateTime<Utc>) -> bool {
        self.rule_id.is_none_or(|rule_id| coupon.rule_id == rule_id)
            && self.valid_until_from.is_none_or(|from| coupon.valid_until >= from)
            && self.valid_until_before.is_none_or(|before| coupon.valid_until < before)
            && match (self.state, coupon.state(now)) {
                (None, _) => true,
                (Some(ListState::Issued), state) => state == StateName::Issued,
                (Some(ListState::Redeemed), state) => state == StateName::Redeemed,
                (Some(ListState::Void), state) => state == StateName::Void,
                (Some(ListState::Expired), state) => state == StateName::Expired,
            }
    }
}

/// A coupon in the list of its holder.
#[derive(Debug, Serialize, ToSchema)]
struct HeldCoupon {
    code: String,
    rule_id: RuleId,
    rule_version: i32,
    /// A lock does not show here.
    state: StateName,
    issued_on: Day,
    /// Exclusive.
    #[serde(serialize_with = "millis")]
    valid_until: DateTime<Utc>,
}

/// List the coupons of a member
///
/// The newest first, by day of issue. A page looks at 2,000 coupons at most, so under a filter it may be short or empty
/// while `next_cursor` says that the list goes on.
#[utoipa::path(get, path = "/v1/members/{member_id}/coupons", tag = "coupons",
    params(("member_id" = MemberId, Path), HeldList),
    responses((status = 200, description = "A page of coupons", body = Page<HeldCoupon>)))]
async fn list_member_coupons(
    app: Data<App>,
    shell: Data<Shell>,
    At(member_id): At<MemberId>,
    Query(list): Query<HeldList>,
) -> Reply<Page<HeldCoupon>> {
    let (filter, limit) = (("member_coupons", member_id, &list), limit_of(list.limit));
    let before = match &list.cursor {
        Some(cursor) => cursor
            .key(&filter)?
            .parse::<CodeId>()
            .map_err(|_| Refusal::new(Code::MalformedQuery).with("parameter", "cursor"))?,
        None => CodeId::MAX,
    };
    let (found, cost) = app.members.find(member_id).await?;
    if found.is_none() {
        return Err(ApiError::from(Code::MemberNotFound).metered(cost.into()));
    }
    let rows_max = if list.is_any() { limit + 1 } else { EXAMINED_MAX };
    let (held, spent) = app.desk.list_held(HeldKey { member_id, before, rows_max }).await?;
    let now = shell.clock.now();
    let fits = |coupon: &&Held| list.has(coupon, now);
    let mut rows: Vec<&Held> = held.iter().filter(fits).take(limit as usize + 1).collect();
    let next = if rows.len() > limit as usize {
        rows.truncate(limit as usize);
        rows.last().map(|coupon| coupon.code_id)
    } else {
        // All that was looked at fits on the page; there may be more below.
        held.last().map(|coupon| coupon.code_id).filter(|_| held.len() as i64 == rows_max)
    };
    let items = rows.into_iter().map(|coupon| HeldCoupon {
        code: app.desk.secrets.codes().format(coupon.code_id),
        rule_id: coupon.rule_id,
        rule_version: coupon.rule_version,
        state: coupon.state(now),
        issued_on: Day::from_code(coupon.code_id.get()),
        valid_until: coupon.valid_until,
    });
    let page = Page { items: items.collect(), next_cursor: next.map(|code| Cursor::new(&filter, &code.to_string())) };
    let mut meter = metered(cost);
    meter.cached = false;
    meter += spent.into();
    Ok(Answer::ok(page).metered(meter))
}
