//! Rules over HTTP.

use std::time::Instant;

use actix_web::web::Data;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    decide::millis,
    rule::{Discount, Rule, RuleState, RuleVersion, Validity},
};
use crate::{
    app::App,
    http::{
        Answer, ApiError, At, ETag, IfMatch, IfMatchGiven, Json, Reply, Routes,
        input::{Int, kept, present},
    },
    id::RuleId,
    meter::Meter,
    problem::{Code, Refusal},
    text_type,
};

text_type! {
    RuleName: text 1..=100, "10 off 50";
}

/// ISO 4217: three capital letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Currency(String);

impl Currency {
    pub fn into_string(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() == 3 && text.bytes().all(|letter| letter.is_ascii_uppercase()) {
            return Ok(Self(text));
        }
        Err(crate::http::input::invalid("must be three capital letters, as in ISO 4217"))
    }
}

impl utoipa::PartialSchema for Currency {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        crate::http::input::text_schema(3, 3, "^[A-Z]{3}$", "CNY")
    }
}

impl ToSchema for Currency {}

pub fn routes() -> Routes {
    crate::routes! {
        create_rule;
        get_rule: RuleNotFound;
        pause_rule: RuleNotFound, RuleStateForbidden, PreconditionRequired;
        resume_rule: RuleNotFound, RuleStateForbidden, PreconditionRequired;
        end_rule: RuleNotFound, RuleStateForbidden, PreconditionRequired;
    }
}

/// When the coupons of a rule may be used: from issue to the end of the n-th business day after it, or a fixed window.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ValidityBody {
    Relative(RelativeValidity),
    Fixed(FixedValidity),
}

#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelativeValidity {
    #[serde(deserialize_with = "kept")]
    days_after_issue: Int<0, 3650>,
}

#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedValidity {
    /// From issue if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Exclusive.
    until: DateTime<Utc>,
}

/// A new rule.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    name: RuleName,
    discount: Discount,
    currency: Currency,
    /// Least payable amount, smallest unit; none if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    threshold: Option<Int<0, 1_000_000_000_000>>,
    validity: ValidityBody,
    /// Coupons in all; unlimited if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    stock: Option<Int<0, 1_000_000_000_000>>,
    /// Coupons one member may take; unlimited if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    per_member: Option<Int<1, 1_000_000>>,
    /// Uses of each coupon; 1 if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    uses: Option<Int<1, 1000>>,
    /// `draft` (the default) or `active`.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    state: Option<FirstState>,
}

/// What a rule may begin as.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FirstState {
    Draft,
    Active,
}

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleView {
    rule_id: RuleId,
    version: i32,
    state: RuleState,
    name: String,
    discount: Discount,
    currency: String,
    threshold: i64,
    validity: ValidityBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stock: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    per_member: Option<i32>,
    uses: i16,
    #[serde(serialize_with = "millis")]
    created_at: DateTime<Utc>,
    #[serde(serialize_with = "millis")]
    updated_at: DateTime<Utc>,
}

impl From<&Rule> for RuleView {
    fn from(rule: &Rule) -> Self {
        let version: &RuleVersion = &rule.current;
        Self {
            rule_id: version.rule_id,
            version: version.version,
            state: rule.state,
            name: version.name.clone(),
            discount: version.discount,
            currency: version.currency.clone(),
            threshold: version.threshold,
            validity: match version.validity {
                Validity::Fixed { from, until } => ValidityBody::Fixed(FixedValidity { from, until }),
                Validity::DaysAfterIssue(days) => ValidityBody::Relative(RelativeValidity {
                    days_after_issue: Int::new(days.into()).expect("it was checked when the rule was made"),
                }),
            },
            stock: version.stock,
            per_member: version.per_member,
            uses: version.uses,
            created_at: rule.created_at,
            updated_at: rule.updated_at,
        }
    }
}

fn answer(rule: &Rule) -> Answer<RuleView> {
    Answer::ok(RuleView::from(rule)).etag(ETag::version(rule.revision))
}

/// Make a rule
///
/// It may be issued once it is active.
#[utoipa::path(post, path = "/v1/coupon-rules", tag = "rules", responses(
    (status = 201, description = "The rule", body = RuleView, headers(("ETag" = String), ("Location" = String)))))]
async fn create_rule(app: Data<App>, Json(new): Json<NewRule>) -> Reply<RuleView> {
    let validity = match new.validity {
        ValidityBody::Relative(relative) => Validity::DaysAfterIssue(relative.days_after_issue.get() as i32),
        ValidityBody::Fixed(FixedValidity { from, until }) => {
            if from.is_some_and(|from| from >= until) {
                return Err(ApiError::invalid_field("validity.until", "must be after from"));
            }
            for (field, at) in [("validity.from", from), ("validity.until", Some(until))] {
                if at.is_some_and(|at| !(2000..2090).contains(&chrono::Datelike::year(&at))) {
                    return Err(ApiError::invalid_field(field, "must lie between the years 2000 and 2089"));
                }
            }
            Validity::Fixed { from, until }
        }
    };
    let version = RuleVersion {
        rule_id: app.minter.mint_rule().map_err(|error| ApiError::failed(Code::Unavailable, error))?,
        version: 1,
        name: new.name.into_string(),
        discount: new.discount,
        currency: new.currency.into_string(),
        threshold: new.threshold.map_or(0, Int::get),
        validity,
        stock: new.stock.map(Int::get),
        per_member: new.per_member.map(|limit| limit.get() as i32),
        uses: new.uses.map_or(1, |uses| uses.get() as i16),
    };
    let state = match new.state {
        Some(FirstState::Active) => RuleState::Active,
        Some(FirstState::Draft) | None => RuleState::Draft,
    };
    let rule = app.desk.create_rule(state, version).await?;
    let location = format!("/v1/coupon-rules/{}", rule.current.rule_id);
    Ok(Answer::created(RuleView::from(&rule), location).etag(ETag::version(rule.revision)))
}

/// Get a rule
#[utoipa::path(get, path = "/v1/coupon-rules/{rule_id}", tag = "rules", params(("rule_id" = RuleId, Path)), responses(
    (status = 200, description = "The rule", body = RuleView, headers(("ETag" = String)))))]
async fn get_rule(app: Data<App>, At(rule_id): At<RuleId>) -> Reply<RuleView> {
    let asked = Instant::now();
    let (rule, cached) = app.desk.find_rule(rule_id).await?.ok_or(Refusal::new(Code::RuleNotFound))?;
    Ok(answer(&rule).metered(if cached { Meter::CACHED } else { Meter::office(asked.elapsed()) }))
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
    Ok(answer(&rule))
}
