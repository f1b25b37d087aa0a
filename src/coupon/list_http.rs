//! A rule's coupons over HTTP.

use actix_web::web::Data;
use chrono::{DateTime, Datelike, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    StateName,
    decide::millis,
    http::Referrer,
    list::{Filter, ListState, list_of_rule},
};
use crate::{
    app::App,
    db::pool,
    http::{Answer, ApiError, At, Cursor, Page, PageLimit, Query, Reply, Routes, app::Shell, page::limit_of},
    id::{CodeId, Day, MemberId, RuleId},
    meter::Meter,
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_rule_coupons: RuleNotFound;
    }
}

#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RuleCouponList {
    /// Only coupons of this state.
    #[param(inline)]
    state: Option<ListState>,
    /// Only coupons whose time ends at this instant or later.
    #[param(inline)]
    valid_until_from: Option<DateTime<Utc>>,
    /// Only coupons whose time ends before this instant.
    #[param(inline)]
    valid_until_before: Option<DateTime<Utc>>,
    /// Only coupons of members whom this employee referred.
    #[param(inline)]
    referrer: Option<Referrer>,
    /// Only coupons issued on this day or later.
    #[param(inline)]
    issued_from: Option<Day>,
    /// Only coupons issued on this day or earlier.
    #[param(inline)]
    issued_until: Option<Day>,
    #[param(inline)]
    #[serde(serialize_with = "crate::http::input::nothing")]
    cursor: Option<Cursor>,
    /// Coupons a page; 50 if absent.
    #[param(inline)]
    #[serde(serialize_with = "crate::http::input::nothing")]
    limit: Option<PageLimit>,
}

/// A coupon in the list of its rule.
#[derive(Debug, Serialize, ToSchema)]
struct RuleCoupon {
    code: String,
    /// A lock does not show here.
    state: StateName,
    issued_on: Day,
    /// Exclusive.
    #[serde(serialize_with = "millis")]
    valid_until: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    referrer: Option<String>,
}

/// List the coupons of a rule
///
/// By day of issue, and within a day in the order of their codes, so that a coupon that changes while pages are turned
/// neither comes twice nor is lost. A page looks at 2,000 coupons at most, so under a filter it may be short or empty while
/// `next_cursor` says that the list goes on. Coupons of months that are put away are not in it. Checked in this order:
/// parameters, whether the rule exists.
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}/coupons", tag = "coupons",
    params(("rule_id" = RuleId, Path), RuleCouponList),
    responses((status = 200, description = "A page of coupons", body = Page<RuleCoupon>)))]
async fn list_rule_coupons(
    app: Data<App>,
    shell: Data<Shell>,
    At(rule_id): At<RuleId>,
    Query(list): Query<RuleCouponList>,
) -> Reply<Page<RuleCoupon>> {
    let bound = ("rule_coupons", rule_id, &list);
    let after = match &list.cursor {
        Some(cursor) => Some(
            cursor
                .key(&bound)?
                .parse::<CodeId>()
                .map_err(|_| Refusal::new(Code::MalformedQuery).with("parameter", "cursor"))?,
        ),
        None => None,
    };
    for (parameter, at) in
        [("valid_until_from", list.valid_until_from), ("valid_until_before", list.valid_until_before)]
    {
        // Years that a database can hold.
        if at.is_some_and(|at| !(1..=9999).contains(&at.year())) {
            return Err(Refusal::new(Code::MalformedQuery).with("parameter", parameter).into());
        }
    }
    let filter = Filter {
        state: list.state,
        valid_until_from: list.valid_until_from,
        valid_until_before: list.valid_until_before,
        referrer: list.referrer.as_ref().map(|referrer| referrer.as_str().to_owned()),
        issued: (list.issued_from, list.issued_until),
    };
    if app.desk.rule(rule_id).await?.is_none() {
        return Err(ApiError::from(Code::RuleNotFound));
    }
    let now = shell.clock.now();
    let mut conn = shell.conn().await?;
    let listed =
        list_of_rule(&mut conn, rule_id, &filter, now, after, limit_of(list.limit)).await.map_err(pool::Error::from)?;
    let items = listed.rows.into_iter().map(|coupon| RuleCoupon {
        code: app.desk.secrets.codes().format(coupon.code_id),
        state: coupon.state(now),
        issued_on: Day::from_code(coupon.code_id.get()),
        valid_until: coupon.valid_until,
        member_id: coupon.member_id,
        referrer: coupon.referrer,
    });
    let page = Page {
        items: items.collect(),
        next_cursor: listed.next.map(|code_id| Cursor::new(&bound, &code_id.to_string())),
    };
    Ok(Answer::ok(page).metered(Meter { leaves: 1, ..conn.meter() }))
}
