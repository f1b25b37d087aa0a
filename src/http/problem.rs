//! Renders what went wrong as `application/problem+json` (RFC 9457).
//!
//! [`ApiError`] is either a refusal, which a caller may see whole, or a defect of ours, of which a caller sees an
//! incident id and the log the whole chain of causes, once. Nothing else renders errors.

use std::error::Error as StdError;
use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::db::lane::LaneError;
use crate::db::{pool, refused_by};
use crate::meter::Meter;
use crate::problem::{Code, Refusal};

/// The media type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";
/// Seconds after which to try again, where the refusal does not say.
const RETRY_AFTER_SECS: u64 = 1;

/// Why a request gets no 2xx.
#[derive(Debug)]
pub struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    cause: Cause,
    meter: Meter,
    replayed: bool,
}

#[derive(Debug)]
enum Cause {
    Refused(Refusal),
    /// A defect, or a failure that has a code but whose causes only the log may see.
    Failed {
        code: Code,
        incident: Uuid,
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl ApiError {
    /// A defect of ours: 500 with an incident id; the causes go to the log.
    pub fn internal(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::failed(Code::Internal, source)
    }

    /// A failure with a code of its own, such as `unavailable`, whose causes go to the log.
    pub fn failed(code: Code, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::of(Cause::Failed { code, incident: Uuid::now_v7(), source: source.into() })
    }

    /// 503 `unavailable`: something that we need does not answer; the causes go to the log.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::failed(Code::Unavailable, source)
    }

    /// 422 `invalid_field`: a well-formed value that is not allowed.
    pub fn invalid_field(field: &str, reason: impl Into<String>) -> Self {
        Refusal::invalid_field(field, reason).into()
    }

    fn of(cause: Cause) -> Self {
        Self(Box::new(Inner { cause, meter: Meter::default(), replayed: false }))
    }

    /// What finding this out has cost.
    pub fn metered(mut self, meter: Meter) -> Self {
        self.0.meter += meter;
        self
    }

    /// Marks a stored refusal that is given again.
    pub fn replayed(mut self) -> Self {
        self.0.replayed = true;
        self
    }

    pub fn code(&self) -> Code {
        match &self.0.cause {
            Cause::Refused(refusal) => refusal.code,
            Cause::Failed { code, .. } => *code,
        }
    }

    /// The refusal, unless this is a failure of ours.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.0.cause {
            Cause::Refused(refusal) => Some(refusal),
            Cause::Failed { .. } => None,
        }
    }

    fn log(&self) {
        let Cause::Failed { code, incident, source } = &self.0.cause else { return };
        let causes = chain(source.as_ref());
        if *code == Code::Internal {
            tracing::error!(%incident, code = code.name(), causes, "a request failed");
        } else {
            tracing::warn!(%incident, code = code.name(), causes, "a request could not be served");
        }
    }
}

/// 422 `invalid_field`, as a refusal.
pub fn invalid_field(field: &str, reason: impl Into<String>) -> Refusal {
    Refusal::invalid_field(field, reason)
}

/// The error and its sources, outermost first.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The problem document of a refusal.
pub fn document(refusal: &Refusal) -> Value {
    let code = refusal.code;
    let mut document = Map::new();
    document.insert("type".into(), type_of(code).into());
    document.insert("title".into(), code.title().into());
    document.insert("status".into(), code.status().into());
    document.insert("code".into(), code.name().into());
    if let Some(detail) = &refusal.detail {
        document.insert("detail".into(), detail.as_str().into());
    }
    for (name, value) in &refusal.extra {
        // The five names above belong to the table; an extra member cannot speak over them.
        document.entry(name.as_str()).or_insert_with(|| value.clone());
    }
    Value::Object(document)
}

/// The relative type of a problem, where `GET` explains it.
pub fn type_of(code: Code) -> String {
    format!("/problems/{}", code.name())
}

/// The status of a code as actix wants it.
pub fn status_of(code: Code) -> StatusCode {
    StatusCode::from_u16(code.status()).expect("the table holds valid statuses, and a test reads all of it")
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        status_of(self.code())
    }

    fn error_response(&self) -> HttpResponse {
        self.log();
        let body = match &self.0.cause {
            Cause::Refused(refusal) => document(refusal),
            Cause::Failed { code, incident, .. } => {
                document(&Refusal::new(*code).with("incident", incident.to_string()))
            }
        };
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(CONTENT_TYPE);
        if self.0.replayed {
            response.insert_header(("idempotency-replayed", "true"));
        }
        special_headers(&mut response, self.code(), &body);
        let mut response = response.body(body.to_string());
        if self.0.meter != Meter::default() {
            response.extensions_mut().insert(self.0.meter);
        }
        response
    }
}

/// What HTTP wants beside the body: how to authenticate, when to come back, which methods there are.
fn special_headers(response: &mut HttpResponseBuilder, code: Code, body: &Value) {
    match code.status() {
        401 => {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"tessera\""));
        }
        429 | 503 => {
            let secs = body["retry_after"].as_u64().unwrap_or(RETRY_AFTER_SECS);
            response.insert_header((header::RETRY_AFTER, secs.to_string()));
        }
        405 => {
            if let Some(allow) = body["allow"].as_str() {
                response.insert_header((header::ALLOW, allow));
            }
        }
        408 | 413 => {
            // The rest of the body may still be on its way: it must not be read as the next request.
            response.force_close();
        }
        _ => {}
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code().title())
    }
}

impl StdError for ApiError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.0.cause {
            Cause::Refused(_) => None,
            Cause::Failed { source, .. } => Some(source.as_ref()),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::of(Cause::Refused(refusal))
    }
}

impl From<Code> for ApiError {
    fn from(code: Code) -> Self {
        Refusal::new(code).into()
    }
}

impl From<pool::Error> for ApiError {
    fn from(error: pool::Error) -> Self {
        match error {
            // A full pool is ordinary under load: the metric counts it, the log need not.
            pool::Error::Busy => Code::Overloaded.into(),
            error => Self::failed(error.code(), error),
        }
    }
}

impl From<LaneError> for ApiError {
    fn from(error: LaneError) -> Self {
        match error {
            // Ordinary under load and at the end: counted by the lane, not logged for each request.
            LaneError::Overloaded => Code::Overloaded.into(),
            LaneError::Busy => Refusal::new(Code::Unavailable)
                .detail("another request holds what this one needs, and has not ended; nothing was done")
                .into(),
            LaneError::Stopping => Refusal::new(Code::Unavailable).detail("the service is stopping").into(),
            LaneError::OutcomeUnknown => Self::failed(Code::OutcomeUnknown, error),
            LaneError::Unavailable(_) => Self::failed(Code::Unavailable, error),
            // Numbers are accepted for longer than there are leaves for them: nothing was done.
            LaneError::Failed(cause) if refused_by(&cause).is_some_and(|table| table.starts_with("request")) => {
                Refusal::new(Code::RequestNumberExpired).detail("there is no place for numbers of that day").into()
            }
            LaneError::Failed(_) | LaneError::Inconsistent(_) | LaneError::Panicked => Self::internal(error),
        }
    }
}

/// `route_not_found`, with the path that was asked for.
pub fn route_not_found(path: &str) -> ApiError {
    Refusal::new(Code::RouteNotFound).detail(format!("nothing answers at {}", path.escape_default())).into()
}

/// `method_not_allowed`, with the methods that are.
pub fn method_not_allowed(allow: &str) -> ApiError {
    Refusal::new(Code::MethodNotAllowed).with("allow", json!(allow)).into()
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;

    use super::*;

    async fn rendered(error: ApiError) -> (u16, Vec<(String, String)>, Value) {
        let response = error.error_response();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body()).await.unwrap();
        (status, headers, serde_json::from_slice(&body).unwrap())
    }

    fn has(headers: &[(String, String)], name: &str, value: &str) -> bool {
        headers.iter().any(|(n, v)| n == name && v == value)
    }

    #[actix_web::test]
    async fn a_refusal_is_shown_whole() {
        let refusal = Refusal::new(Code::CouponAlreadyRedeemed)
            .detail("redeemed at S0002")
            .with("store_id", "S0002")
            .with("status", 200);
        let (status, headers, body) = rendered(ApiError::from(refusal).replayed()).await;
        assert_eq!(status, 409);
        assert!(has(&headers, "content-type", "application/problem+json"));
        assert!(has(&headers, "idempotency-replayed", "true"));
        assert_eq!(
            body,
            json!({
                "type": "/problems/coupon_already_redeemed", "title": "The coupon was redeemed already", "status": 409,
                "code": "coupon_already_redeemed", "detail": "redeemed at S0002", "store_id": "S0002",
            })
        );
    }

    #[actix_web::test]
    async fn a_defect_shows_an_incident_and_no_cause() {
        let (status, _, body) = rendered(ApiError::internal("password of the database")).await;
        assert_eq!(status, 500);
        let mut names: Vec<_> = body.as_object().unwrap().keys().cloned().collect();
        names.sort();
        assert_eq!(names, ["code", "incident", "status", "title", "type"]);
    }

    #[actix_web::test]
    async fn the_headers_that_http_wants_are_there() {
        let (_, headers, _) = rendered(Code::Unauthenticated.into()).await;
        assert!(has(&headers, "www-authenticate", "Bearer realm=\"tessera\""));
        let (_, headers, _) = rendered(Refusal::new(Code::TooManyRequests).with("retry_after", 7).into()).await;
        assert!(has(&headers, "retry-after", "7"));
        let (_, headers, _) = rendered(Code::Overloaded.into()).await;
        assert!(has(&headers, "retry-after", "1"));
        let (_, headers, _) = rendered(method_not_allowed("GET, HEAD")).await;
        assert!(has(&headers, "allow", "GET, HEAD"));
    }

    #[test]
    fn every_code_has_a_valid_status_and_a_name_that_fits_a_path() {
        for &code in Code::ALL {
            assert!(status_of(code).is_client_error() || status_of(code).is_server_error());
            assert!(code.name().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", code.name());
        }
    }
}
