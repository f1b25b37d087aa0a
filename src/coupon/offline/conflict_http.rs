//! The conflict ledger over HTTP.

use std::sync::Arc;

use actix_web::web::Data;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{
    Conflict, How, Resolution,
    store::{self, Range},
};
use crate::{
    app::App,
    chain::StoreId,
    coupon::{code::CodeKeys, decide::millis},
    db::pool,
    http::{
        Answer, ApiError, At, Caller, Cursor, ETag, IfMatch, Json, Page, PageLimit, Query, Reply, app::Shell,
        page::limit_of,
    },
    id::{DAY_END, Day, MemberId, RedemptionId},
    meter::Meter,
    problem::{Code, Refusal},
    text_type,
};

text_type! {
    /// Why it was decided so.
    ConflictNote: text 1..=200, "the till was cut off by the storm";
}

/// Whether a conflict is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConflictState {
    Open,
    Resolved,
}

/// An offline redemption that did not fit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Conflict)]
pub struct ConflictView {
    conflict_id: RedemptionId,
    state: ConflictState,
    /// The name of the error code that a till online would have got.
    #[schema(example = "coupon_already_redeemed")]
    reason: String,
    /// What the reason adds, such as which order had used the coupon.
    #[schema(value_type = Object)]
    details: Value,
    /// The store that bears it until it is decided.
    #[schema(value_type = String, example = "S0001")]
    store_id: Arc<str>,
    register: String,
    business_date: Day,
    sequence: i32,
    order_ref: String,
    /// Of one that fails its check, the first 64 characters as they were sent.
    code: String,
    /// Payable before the discount, smallest unit.
    amount: i64,
    /// What the till took off, or what the rule gives; null when neither is known.
    #[schema(required)]
    discount: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    currency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member_id: Option<MemberId>,
    #[serde(serialize_with = "millis")]
    redeemed_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    recorded_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    resolution: Option<ResolutionView>,
    version: i32,
}

/// Who bears a conflict in the end.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConflictResolved)]
pub struct ResolutionView {
    how: How,
    note: String,
    #[serde(serialize_with = "millis")]
    resolved_at: DateTime<Utc>,
    /// The name of the API key that decided it.
    resolved_by: String,
}

impl From<Resolution> for ResolutionView {
    fn from(resolution: Resolution) -> Self {
        let Resolution { how, at, by, note } = resolution;
        Self { how, note, resolved_at: at, resolved_by: by }
    }
}

impl ConflictView {
    fn new(conflict: Conflict, store_id: Arc<str>, codes: &CodeKeys) -> Result<Self, ApiError> {
        let details = conflict.details.as_deref().map(serde_json::from_str).transpose();
        Ok(Self {
            conflict_id: conflict.conflict_id,
            state: if conflict.resolution.is_some() { ConflictState::Resolved } else { ConflictState::Open },
            reason: conflict.reason,
            details: details.map_err(ApiError::internal)?.unwrap_or_else(|| Value::Object(Default::default())),
            store_id,
            register: conflict.register,
            business_date: conflict.business_day,
            sequence: conflict.sequence,
            order_ref: conflict.order_ref,
            code: match conflict.code {
                super::Sent::Ours(code_id) => codes.format(code_id),
                super::Sent::Foreign(text) => text,
            },
            amount: conflict.amount,
            discount: conflict.discount,
            currency: conflict.currency,
            member_id: conflict.member_id,
            redeemed_at: conflict.redeemed_at,
            recorded_at: conflict.recorded_at,
            resolution: conflict.resolution.map(ResolutionView::from),
            version: conflict.version,
        })
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ConflictList {
    /// Only conflicts of this store. A till's key sees those of its own.
    #[param(inline)]
    store: Option<StoreId>,
    /// The first business day; the first of the month if absent.
    #[param(inline)]
    from: Option<Day>,
    /// The last business day, of the same month; today, or the end of the month of `from`, if absent.
    #[param(inline)]
    until: Option<Day>,
    #[param(inline)]
    state: Option<ConflictState>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Rows a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// The filter that binds a cursor.
#[derive(Debug, Serialize)]
struct Asked {
    list: &'static str,
    store: Option<StoreId>,
    from: Day,
    until: Day,
    state: Option<ConflictState>,
}

/// The days of a list: of one month, which is one partition.
///
/// # Errors
/// `malformed_query`.
fn days(today: Day, from: Option<Day>, until: Option<Day>) -> Result<(Day, Day), Refusal> {
    let refused =
        |name: &str, detail: &str| Err(Refusal::new(Code::MalformedQuery).detail(detail).with("parameter", name));
    let until = match (from, until) {
        (_, Some(until)) => until,
        (Some(from), None) => today.min(from.first_of_next_month().plus(-1)).max(from),
        (None, None) => today,
    };
    let from = from.unwrap_or_else(|| until.first_of_month());
    if from > until {
        return refused("until", "until must not be before from");
    }
    if from.first_of_month() != until.first_of_month() {
        return refused("from", "from and until must be days of one month: a page reads one partition");
    }
    if from < Day::EPOCH || until.number() >= DAY_END {
        return refused("from", "there are no such business days");
    }
    Ok((from, until))
}

/// List conflicts
///
/// Offline redemptions that did not fit, of business days of one month, newest first. One whose day lay outside the window
/// of request numbers, or that could not be read, is filed under the day on which it came. A till's key sees those of its
/// own store. Checked in this order: parameters, store.
#[utoipa::path(get, path = "/v1/pos/conflicts", tag = "tills", params(ConflictList),
    responses((status = 200, description = "A page of conflicts", body = Page<ConflictView>)))]
pub(super) async fn list_conflicts(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    Query(list): Query<ConflictList>,
) -> Reply<Page<ConflictView>> {
    let (from, until) = days(shell.zone.day_of(shell.clock.now()), list.from, list.until)?;
    let store = list.store.or_else(|| caller.store.as_ref().map(|(_, own)| own.clone()));
    let asked = Asked { list: "conflicts", store, from, until, state: list.state };
    let mut before = until.plus(1).first_id();
    if let Some(cursor) = &list.cursor {
        let key = cursor.key(&asked)?.parse::<i64>().ok().filter(|key| *key > 0);
        before = before.min(key.ok_or_else(|| Refusal::new(Code::MalformedQuery).with("parameter", "cursor"))?);
    }
    let store_no = match &asked.store {
        Some(store_id) => {
            caller.must_be_at(store_id)?;
            Some(app.stores.get(store_id).await?.store_no)
        }
        None => None,
    };
    let resolved = asked.state.map(|state| state == ConflictState::Resolved);
    let range = Range { from: from.first_id(), before, store_no, resolved };
    let limit = limit_of(list.limit);
    let mut conn = shell.conn().await?;
    let rows = store::list_conflicts(&mut conn, range, limit + 1).await.map_err(pool::Error::from)?;
    let meter = Meter { leaves: 1, ..conn.meter() };
    drop(conn);
    let page = Page::new(rows, limit, &asked, |row| row.conflict_id.to_string());
    let codes = app.desk.secrets.codes();
    let mut items = Vec::with_capacity(page.items.len());
    for row in page.items {
        let store_id = app.stores.name(row.store_no).await?;
        items.push(ConflictView::new(row, store_id, &codes)?);
    }
    Ok(Answer::ok(Page { items, next_cursor: page.next_cursor }).metered(meter))
}

/// Get a conflict
///
/// A till's key sees those of its own store.
#[utoipa::path(get, path = "/v1/pos/conflicts/{conflict_id}", tag = "tills",
    params(("conflict_id" = RedemptionId, Path)),
    responses((status = 200, description = "The conflict", body = ConflictView, headers(("ETag" = String)))))]
pub(super) async fn get_conflict(
    app: Data<App>,
    shell: Data<Shell>,
    caller: Caller,
    At(conflict_id): At<RedemptionId>,
) -> Reply<ConflictView> {
    let mut conn = shell.conn().await?;
    let found = store::find_conflict(&mut conn, conflict_id).await.map_err(pool::Error::from)?;
    let meter = Meter { leaves: 1, ..conn.meter() };
    drop(conn);
    // Another store's is not there for a till.
    let own = found.filter(|row| caller.store.as_ref().is_none_or(|(own, _)| *own == row.store_no));
    let row = own.ok_or_else(|| ApiError::from(Code::ConflictNotFound).metered(meter))?;
    let (version, store_id) = (row.version, app.stores.name(row.store_no).await?);
    let view = ConflictView::new(row, store_id, &app.desk.secrets.codes())?;
    Ok(Answer::ok(view).etag(ETag::version(version)).metered(meter))
}

/// Who bears a conflict.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveBody {
    how: How,
    note: ConflictNote,
}

/// Resolve a conflict
///
/// Says who bears it, which is audited. It may be decided anew; the same decision again changes nothing, whatever version
/// was seen. Nothing of it changes the ledger or the coupon. Checked in this order: precondition's shape, body, not found,
/// precondition.
#[utoipa::path(post, path = "/v1/pos/conflicts/{conflict_id}/resolve", tag = "tills",
    params(("conflict_id" = RedemptionId, Path), ("If-Match" = inline(IfMatch), Header, description = "The version that was seen")),
    responses((status = 200, description = "The conflict", body = ConflictView, headers(("ETag" = String)))))]
pub(super) async fn resolve_conflict(
    app: Data<App>,
    caller: Caller,
    seen: IfMatch,
    At(conflict_id): At<RedemptionId>,
    Json(body): Json<ResolveBody>,
) -> Reply<ConflictView> {
    if crate::member::names_somebody(body.note.as_str()) {
        return Err(ApiError::invalid_field("note", "must not name a phone number or an e-mail"));
    }
    let versions = seen.versions().map(<[i64]>::to_vec);
    let decision = (body.how, body.note.into_string());
    let actor = crate::member::http::actor(&caller);
    let (resolved, cost) = app.desk.resolve_conflict(conflict_id, versions, decision, actor).await?;
    let row = resolved.map_err(|refusal| ApiError::from(refusal).metered(cost.into()))?;
    let (version, store_id) = (row.version, app.stores.name(row.store_no).await?);
    let view = ConflictView::new(row, store_id, &app.desk.secrets.codes())?;
    Ok(Answer::ok(view).etag(ETag::version(version)).metered(cost.into()))
}
