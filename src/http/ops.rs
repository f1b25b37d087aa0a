//! What operators and newcomers ask for, without a key: health, metrics, the document and its pages, the problems.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::{self, Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, Resource, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_swagger_ui::Config;

use super::app::Shell;
use super::problem::{ApiError, document, method_not_allowed, route_not_found, type_of};
use super::{Answer, At, Reply, Routes};
use crate::problem::{Code, Refusal};

pub fn routes() -> Routes {
    crate::routes! {
        get_health;
        get_readiness;
        get_metrics;
        get_openapi;
        list_problems;
        get_problem: RouteNotFound;
    }
}

/// How this process was built: figures of a debug build say nothing.
const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

/// The OpenAPI document as it is served.
pub struct Document(pub Bytes);

#[derive(Serialize, ToSchema)]
struct Health {
    #[schema(example = "ok")]
    status: &'static str,
}

/// The process answers
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, description = "Alive", body = Health)))]
async fn get_health() -> Reply<Health> {
    Ok(Answer::ok(Health { status: "ok" }))
}

#[derive(Serialize, ToSchema)]
struct ReadinessReport {
    ready: bool,
    /// Name of a reason → what is the matter. Empty when ready.
    reasons: BTreeMap<String, String>,
}

/// The process should get requests
///
/// A load balancer sends requests where this is 200. Names of reasons: `database`, `clock`, `migration`, `lease`,
/// `partition`, `shutdown`.
#[utoipa::path(get, path = "/readyz", tag = "operation", responses(
    (status = 200, description = "Ready", body = ReadinessReport),
    (status = 503, description = "Not ready, and why", body = ReadinessReport),
))]
async fn get_readiness(shell: Data<Shell>) -> HttpResponse {
    let reasons: BTreeMap<String, String> =
        shell.readiness.reasons().into_iter().map(|(name, reason)| (name.to_owned(), reason)).collect();
    let report = ReadinessReport { ready: reasons.is_empty(), reasons };
    if report.ready {
        HttpResponse::Ok().json(report)
    } else {
        HttpResponse::ServiceUnavailable().insert_header((header::RETRY_AFTER, "1")).json(report)
    }
}

/// Metrics in the text format of Prometheus
///
/// Counts and times by route, without anything about a person. Keep it from the outside at the proxy.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")))]
async fn get_metrics(shell: Data<Shell>) -> HttpResponse {
    metrics::gauge!("tessera_build_info", "version" => env!("CARGO_PKG_VERSION"), "profile" => PROFILE).set(1.0);
    metrics::gauge!("tessera_requests_in_flight").set(shell.in_flight.count() as f64);
    metrics::gauge!("tessera_ready").set(f64::from(u8::from(shell.readiness.is_ready())));
    let text = shell.metrics.as_ref().map(|metrics| metrics.render()).unwrap_or_default();
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
async fn get_openapi(document: Data<Document>) -> Reply<()> {
    Ok(Answer::rendered(200, document.0.clone()))
}

/// One kind of problem.
#[derive(Serialize, ToSchema)]
struct ProblemKind {
    #[serde(rename = "type")]
    #[schema(example = "/problems/coupon_not_found")]
    kind: String,
    #[schema(example = "coupon_not_found")]
    code: &'static str,
    #[schema(example = 404)]
    status: u16,
    title: &'static str,
    /// Whether the same request may succeed later.
    temporary: bool,
}

impl From<Code> for ProblemKind {
    fn from(code: Code) -> Self {
        let status = code.status();
        let temporary = matches!(status, 408 | 429 | 503);
        Self { kind: type_of(code), code: code.name(), status, title: code.title(), temporary }
    }
}

#[derive(Serialize, ToSchema)]
struct ProblemKinds {
    items: Vec<ProblemKind>,
}

/// Every code that an answer may carry
#[utoipa::path(get, path = "/problems", tag = "operation",
    responses((status = 200, description = "All codes", body = ProblemKinds)))]
async fn list_problems() -> Reply<ProblemKinds> {
    Ok(Answer::ok(ProblemKinds { items: Code::ALL.iter().map(|&code| code.into()).collect() }))
}

/// What a code means
///
/// The `type` of a problem leads here.
#[utoipa::path(get, path = "/problems/{code}", tag = "operation",
    params(("code" = String, Path, description = "The code")),
    responses((status = 200, description = "The code", body = ProblemKind)))]
async fn get_problem(At(name): At<String>) -> Reply<ProblemKind> {
    match Code::ALL.iter().find(|code| code.name() == name) {
        Some(&code) => Ok(Answer::ok(code.into())),
        None => Err(route_not_found(&format!("/problems/{name}"))),
    }
}

/// The pages of the document: swagger-ui from this binary, with nothing from elsewhere.
pub fn docs() -> Resource {
    // Without `none` the page asks validator.swagger.io about every document.
    let config = Config::from("/openapi.json").validator_url("none").try_it_out_enabled(true);
    web::resource(["/docs", "/docs/{file:.*}"])
        .app_data(Data::from(Arc::new(config)))
        .route(web::get().to(get_docs))
        .route(web::head().to(get_docs))
        .default_service(web::to(async || method_not_allowed("GET, HEAD").error_response()))
}

async fn get_docs(request: HttpRequest, config: Data<Config<'static>>) -> Result<HttpResponse, ApiError> {
    let Some(file) = request.match_info().get("file") else {
        // The page's own links are relative to /docs/.
        return Ok(HttpResponse::PermanentRedirect().insert_header((header::LOCATION, "/docs/")).finish());
    };
    let served = utoipa_swagger_ui::serve(file, config.into_inner())
        .map_err(|error| ApiError::internal(error.to_string()))?
        .ok_or_else(|| route_not_found(request.path()))?;
    let mut response = HttpResponse::Ok();
    if served.gzpipped {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
        ))
        .content_type(served.content_type)
        .body(served.bytes.into_owned()))
}

/// A problem document for examples.
pub fn example(code: Code) -> serde_json::Value {
    document(&Refusal::new(code))
}
