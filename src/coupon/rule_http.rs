//! Rules over HTTP.

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use actix_web::web::Data;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    rule::{Rule, RuleState},
    rule_body::{Known, NewRule, RulePatch, RuleView},
    rule_store,
};
use crate::{
    app::App,
    chain::{StoreId, region_store},
    db::pool,
    http::{
        Answer, ApiError, At, Cursor, ETag, IfMatch, IfMatchGiven, Json, Page, PageLimit, Query, Reply, Routes,
        app::Shell, page::limit_of,
    },
    id::{RuleId, StoreNo},
    meter::Meter,
    problem::{Code, Refusal},
};

pub fn routes() -> Routes {
    crate::routes! {
        list_rules;
        create_rule(body 1048576): StoreNotFound, RegionNotFound;
        get_rule: RuleNotFound;
        update_rule(body 1048576): RuleNotFound, StoreNotFound, RegionNotFound, RuleStateForbidden;
        list_rule_versions: RuleNotFound;
        pause_rule: RuleNotFound, RuleStateForbidden, PreconditionRequired;
        resume_rule: RuleNotFound, RuleStateForbidden, PreconditionRequired;
        end_rule: RuleNotFound, RuleStateForbidden, PreconditionRequired;
    }
}

async fn answer(app: &App, rule: &Rule) -> Reply<RuleView> {
    Ok(Answer::ok(view(app, rule).await?).etag(ETag::version(rule.revision)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RuleList {
    /// Only rules of this state.
    state: Option<RuleState>,
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Rules a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List rules
///
/// Newest first.
#[utoipa::path(get, path = "/v1/coupon-rules", tag = "rules", params(RuleList),
    responses((status = 200, description = "A page of rules", body = Page<RuleView>)))]
async fn list_rules(app: Data<App>, shell: Data<Shell>, Query(list): Query<RuleList>) -> Reply<Page<RuleView>> {
    let (filter, limit) = (("rules", list.state), limit_of(list.limit));
    let before = list.cursor.map(|cursor| read_key::<RuleId>(&cursor, &filter)).transpose()?;
    let mut conn = shell.conn().await?;
    let rules = rule_store::list_rules(&mut conn, list.state, before, limit + 1).await.map_err(pool::Error::from)?;
    let page = Page::new(rules, limit, &filter, |rule| rule.current.rule_id.to_string());
    let views = views(&app, &mut conn, &page.items).await?;
    Ok(Answer::ok(Page { items: views, next_cursor: page.next_cursor }).metered(conn.meter()))
}

/// The key in a cursor.
///
/// # Errors
/// `malformed_query`: the tag of a cursor binds its filter, not its key.
fn read_key<T: std::str::FromStr>(cursor: &Cursor, filter: &impl serde::Serialize) -> Result<T, Refusal> {
    cursor.key(filter)?.parse().map_err(|_| Refusal::new(Code::MalformedQuery).with("parameter", "cursor"))
}

async fn views(app: &App, conn: &mut sqlx::PgConnection, rules: &[Rule]) -> Result<Vec<RuleView>, ApiError> {
    let wanted: BTreeSet<StoreNo> = rules.iter().flat_map(RuleView::stores).collect();
    let (names, _) = app.stores.names.read(conn, wanted).await.map_err(pool::Error::from)?;
    Ok(rules.iter().map(|rule| RuleView::new(rule, &names)).collect())
}

/// A rule as answers show it.
async fn view(app: &App, rule: &Rule) -> Result<RuleView, ApiError> {
    let mut names = HashMap::new();
    for store_no in RuleView::stores(rule) {
        names.insert(store_no, app.stores.name(store_no).await?);
    }
    Ok(RuleView::new(rule, &names))
}

/// Of the stores and regions that a body names those that there are.
async fn known(app: &App, stores: BTreeSet<&StoreId>, regions: BTreeSet<&str>) -> Result<Known, ApiError> {
    let mut known = Known::default();
    for store_id in stores {
        if let Some(store) = app.stores.find(store_id).await? {
            known.stores.insert(store_id.to_string(), store.store_no);
        }
    }
    if !regions.is_empty() {
        let mut conn = app.desk.office.get().await?;
        let wanted = regions.into_iter().map(str::to_owned).collect();
        known.regions = region_store::list_standings(&mut conn, wanted).await?.into_keys().collect();
    }
    Ok(known)
}

/// Make a rule
///
/// It may be issued once it is active. Checked in this order: body, validity, stores and regions that it names, what does
/// not go together: a limit of a day or a store above the one in all, places that leave no store.
#[utoipa::path(post, path = "/v1/coupon-rules", tag = "rules", responses(
    (status = 201, description = "The rule", body = RuleView, headers(("ETag" = String), ("Location" = String)))))]
async fn create_rule(app: Data<App>, Json(new): Json<NewRule>) -> Reply<RuleView> {
    let known = known(&app, new.stores(), new.regions()).await?;
    let rule_id = app.minter.mint_rule().map_err(|error| ApiError::failed(Code::Unavailable, error))?;
    let state = new.state();
    let rule = app.desk.create_rule(state, new.read(rule_id, &known)?).await?;
    let location = format!("/v1/coupon-rules/{rule_id}");
    Ok(Answer::created(view(&app, &rule).await?, location).etag(ETag::version(rule.revision)))
}

/// Get a rule
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}", tag = "rules", params(("rule_id" = RuleId, Path)), responses(
    (status = 200, description = "The rule", body = RuleView, headers(("ETag" = String)))))]
async fn get_rule(app: Data<App>, At(rule_id): At<RuleId>) -> Reply<RuleView> {
    let asked = Instant::now();
    let (rule, cached) = app.desk.find_rule(rule_id).await?.ok_or(Refusal::new(Code::RuleNotFound))?;
    let answer = answer(&app, &rule).await?;
    Ok(answer.metered(if cached { Meter::CACHED } else { Meter::office(asked.elapsed()) }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct VersionList {
    #[param(inline)]
    cursor: Option<Cursor>,
    /// Versions a page; 50 if absent.
    #[param(inline)]
    limit: Option<PageLimit>,
}

/// List the versions of a rule
///
/// Newest first. `created_at` is when the version was made; the state is the rule's.
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}/versions", tag = "rules",
    params(("rule_id" = RuleId, Path), VersionList),
    responses((status = 200, description = "A page of versions", body = Page<RuleView>)))]
async fn list_rule_versions(
    app: Data<App>,
    shell: Data<Shell>,
    At(rule_id): At<RuleId>,
    Query(list): Query<VersionList>,
) -> Reply<Page<RuleView>> {
    let (filter, limit) = (("versions", rule_id), limit_of(list.limit));
    let before = list.cursor.map(|cursor| read_key::<i32>(&cursor, &filter)).transpose()?;
    let mut conn = shell.conn().await?;
    let versions = rule_store::list_versions(&mut conn, rule_id, before, limit + 1).await.map_err(pool::Error::from)?;
    // Every rule has its first version.
    if versions.is_empty() && before.is_none() {
        return Err(Code::RuleNotFound.into());
    }
    let page = Page::new(versions, limit, &filter, |rule| rule.current.version.to_string());
    let views = views(&app, &mut conn, &page.items).await?;
    Ok(Answer::ok(Page { items: views, next_cursor: page.next_cursor }).metered(conn.meter()))
}

/// Change a rule
///
/// Makes its next version: coupons that are issued keep what they were issued with, while limits of stock and budget
/// are the rule's and hold from now on, on every node within a second. A change of nothing makes none. Checked in this
/// order: path, `If-Match`, body, whether the rule exists, has a revision that `If-Match` names, has not ended; validity,
/// stores and regions that it names, what does not go together.
#[utoipa::path(patch, path = "/v1/coupon-rules/{rule_id}", tag = "rules",
    params(("rule_id" = RuleId, Path), ("If-Match" = inline(IfMatch), Header)),
    responses((status = 200, description = "The rule as it is now", body = RuleView, headers(("ETag" = String)))))]
async fn update_rule(
    app: Data<App>,
    At(rule_id): At<RuleId>,
    seen: IfMatch,
    Json(patch): Json<RulePatch>,
) -> Reply<RuleView> {
    let known = known(&app, patch.stores(), patch.regions()).await?;
    let rule = app.desk.change_rule(rule_id, seen.versions(), |before| patch.apply(before, &known)).await?;
    answer(&app, &rule).await
}

/// Pause a rule
///
/// Nothing of it is issued or redeemed until it is resumed. Every node follows within a second.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/pause", tag = "rules",
    params(("rule_id" = RuleId, Path), ("If-Match" = inline(Option<IfMatch>), Header)),
    responses((status = 200, description = "The rule", body = RuleView, headers(("ETag" = String)))))]
async fn pause_rule(app: Data<App>, At(rule_id): At<RuleId>, seen: IfMatchGiven) -> Reply<RuleView> {
    set_state(&app, rule_id, seen, RuleState::Paused).await
}

/// Resume a rule
///
/// From draft or paused to active.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/resume", tag = "rules",
    params(("rule_id" = RuleId, Path), ("If-Match" = inline(Option<IfMatch>), Header)),
    responses((status = 200, description = "The rule", body = RuleView, headers(("ETag" = String)))))]
async fn resume_rule(app: Data<App>, At(rule_id): At<RuleId>, seen: IfMatchGiven) -> Reply<RuleView> {
    set_state(&app, rule_id, seen, RuleState::Active).await
}

/// End a rule
///
/// For good: nothing of it is issued any more; what was issued may be redeemed until it expires.
#[utoipa::path(post, path = "/v1/coupon-rules/{rule_id}/end", tag = "rules",
    params(("rule_id" = RuleId, Path), ("If-Match" = inline(Option<IfMatch>), Header)),
    responses((status = 200, description = "The rule", body = RuleView, headers(("ETag" = String)))))]
async fn end_rule(app: Data<App>, At(rule_id): At<RuleId>, seen: IfMatchGiven) -> Reply<RuleView> {
    set_state(&app, rule_id, seen, RuleState::Ended).await
}

async fn set_state(app: &App, rule_id: RuleId, seen: IfMatchGiven, state: RuleState) -> Reply<RuleView> {
    let versions = seen.0.as_ref().and_then(IfMatch::versions);
    let rule = app.desk.set_rule_state(rule_id, versions, state).await?;
    answer(app, &rule).await
}
