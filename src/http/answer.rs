//! What a handler returns: a value with its status, entity tag, location and cost.

use std::fmt;
use std::future::{Ready, ready};

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::{
    Method, StatusCode,
    header::{self, HeaderValue},
};
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpRequest, HttpResponse, Responder};
use serde::Serialize;

use super::problem::ApiError;
use crate::meter::Meter;
use crate::problem::{Code, Refusal};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What handlers return.
pub type Reply<T> = Result<Answer<T>, ApiError>;

/// A 2xx. JSON, with an `ETag` where the value has a version; a `GET` whose `If-None-Match` names it gets 304.
#[derive(Debug)]
pub struct Answer<T> {
    status: StatusCode,
    body: Body<T>,
    etag: Option<ETag>,
    location: Option<String>,
    meter: Meter,
    replayed: bool,
    no_store: bool,
}

#[derive(Debug)]
enum Body<T> {
    Value(T),
    /// JSON that was rendered before: a stored first answer, or a cached one.
    Rendered(Bytes),
    Empty,
}

impl<T> Answer<T> {
    pub fn ok(value: T) -> Self {
        Self::new(StatusCode::OK, Body::Value(value))
    }

    /// 201 with the path of what was made.
    pub fn created(value: T, location: impl Into<String>) -> Self {
        Self { location: Some(location.into()), ..Self::new(StatusCode::CREATED, Body::Value(value)) }
    }

    /// 201 of what has no path of its own.
    pub fn made(value: T) -> Self {
        Self::new(StatusCode::CREATED, Body::Value(value))
    }

    /// JSON that was rendered before.
    ///
    /// # Panics
    /// When the status is none: it comes from our own code or a row that we wrote.
    pub fn rendered(status: u16, json: impl Into<Bytes>) -> Self {
        let status = StatusCode::from_u16(status).expect("a status of our own");
        Self::new(status, Body::Rendered(json.into()))
    }

    pub fn no_content() -> Self {
        Self::new(StatusCode::NO_CONTENT, Body::Empty)
    }

    fn new(status: StatusCode, body: Body<T>) -> Self {
        Self { status, body, etag: None, location: None, meter: Meter::default(), replayed: false, no_store: false }
    }

    pub fn etag(mut self, etag: ETag) -> Self {
        self.etag = Some(etag);
        self
    }

    pub fn location(mut self, location: impl Into<String>) -> Self {
        self.location = Some(location.into());
        self
    }

    /// What the value has cost.
    pub fn metered(mut self, meter: Meter) -> Self {
        self.meter += meter;
        self
    }

    /// Nobody on the way, nor the caller, may keep it.
    pub fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }

    /// Says whether this is the first answer given again.
    pub fn replayed(mut self, replayed: bool) -> Self {
        self.replayed = replayed;
        self
    }
}

impl<T: Serialize> Responder for Answer<T> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        let unchanged = self.status == StatusCode::OK
            && matches!(*request.method(), Method::GET | Method::HEAD)
            && self.etag.as_ref().is_some_and(|etag| none_match_names(request, etag));
        let mut response = HttpResponse::build(if unchanged { StatusCode::NOT_MODIFIED } else { self.status });
        if let Some(ETag(text)) = self.etag {
            response.insert_header((header::ETAG, text));
            // What a caller may see depends on its role: only the caller itself may keep it, and must ask again.
            response.insert_header((header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")));
            response.insert_header((header::VARY, HeaderValue::from_static("authorization")));
        }
        if let Some(location) = self.location {
            response.insert_header((header::LOCATION, location));
        }
        if self.no_store {
            response.insert_header((header::CACHE_CONTROL, "no-store"));
        }
        if self.replayed {
            response.insert_header(("idempotency-replayed", "true"));
        }
        let body = match self.body {
            _ if unchanged => None,
            Body::Empty => None,
            Body::Rendered(json) => Some(json),
            Body::Value(value) => match serde_json::to_vec(&value) {
                Ok(json) => Some(json.into()),
                Err(error) => return HttpResponse::from_error(ApiError::internal(error).metered(self.meter)),
            },
        };
        let mut response = match body {
            Some(json) => response.insert_header((header::CONTENT_TYPE, JSON)).body(json),
            None => response.finish(),
        };
        if self.meter != Meter::default() {
            response.extensions_mut().insert(self.meter);
        }
        response
    }
}

fn none_match_names(request: &HttpRequest, etag: &ETag) -> bool {
    request.headers().get_all(header::IF_NONE_MATCH).filter_map(|value| value.to_str().ok()).any(|text| {
        // Weak comparison, as RFC 9110 wants for If-None-Match.
        text.trim() == "*" || text.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag.0)
    })
}

/// A strong entity tag, made of the version of the thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(String);

impl ETag {
    pub fn version(version: impl Into<i64>) -> Self {
        Self(format!("\"v{}\"", version.into()))
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The `If-Match` that a change must carry: the versions that its sender has seen. Absent, the request is refused with
/// 428 `precondition_required`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`: whatever version there is.
    Any,
    /// Empty when none of the tags is one of ours: then nothing matches.
    Versions(Vec<i64>),
}

impl IfMatch {
    pub fn accepts(&self, version: impl Into<i64>) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version.into()),
        }
    }

    /// The versions as a statement takes them; `None` is any.
    pub fn versions(&self) -> Option<&[i64]> {
        match self {
            Self::Any => None,
            Self::Versions(versions) => Some(versions),
        }
    }

    fn parse(text: &str) -> Result<Self, Refusal> {
        // An empty one says nothing of what was seen. Taking it for none would make a change unconditional.
        if text.trim().is_empty() {
            return Err(Code::PreconditionRequired.into());
        }
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let refused = || {
            Refusal::new(Code::MalformedHeader)
                .detail("If-Match is `*` or a list of entity tags in quotes")
                .with("header", "If-Match")
        };
        let mut versions = Vec::new();
        let mut rest = text.trim();
        loop {
            // A tag may hold commas, but no quotes.
            let (weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
            let (opaque, after) = tag.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or_else(refused)?;
            // Weak tags never match strongly.
            versions.extend(opaque.strip_prefix('v').filter(|_| !weak).and_then(|version| version.parse::<i64>().ok()));
            rest = after.trim_start();
            if rest.is_empty() {
                break;
            }
            rest = rest.strip_prefix(',').ok_or_else(refused)?.trim_start();
        }
        Ok(Self::Versions(versions))
    }
}

impl utoipa::PartialSchema for IfMatch {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("The `ETag` that was seen (or a list of them), or `*`."))
            .pattern(Some(r#"^(\*|"[!#-~]*"(, "[!#-~]*")*)$"#))
            .examples(["\"v1\""])
            .into()
    }
}

impl utoipa::ToSchema for IfMatch {}

impl FromRequest for IfMatch {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match request.headers().get(header::IF_MATCH) {
            None => Err(Code::PreconditionRequired.into()),
            Some(value) => value
                .to_str()
                .map_err(|_| Refusal::new(Code::MalformedHeader).with("header", "If-Match"))
                .and_then(Self::parse)
                .map_err(ApiError::from),
        })
    }
}

/// `If-Match` where it may be absent. (An `Option` of it would take a malformed header for none.)
pub struct IfMatchGiven(pub Option<IfMatch>);

impl FromRequest for IfMatchGiven {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        if !request.headers().contains_key(header::IF_MATCH) {
            return ready(Ok(Self(None)));
        }
        ready(IfMatch::from_request(request, payload).into_inner().map(|seen| Self(Some(seen))))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn if_match_is_read_as_rfc_9110_says() {
        assert_eq!(IfMatch::parse("*").unwrap(), IfMatch::Any);
        assert_eq!(IfMatch::parse("\"v3\", W/\"v4\", \"x\"").unwrap(), IfMatch::Versions(vec![3]));
        assert_eq!(IfMatch::parse("\"a,b\" , \"\",\"v4\"").unwrap(), IfMatch::Versions(vec![4]));
        for bad in ["v3", "\"v3", "\"v3\",", "3", "\"v3\" \"v4\""] {
            assert_eq!(IfMatch::parse(bad).unwrap_err().code, Code::MalformedHeader, "{bad}");
        }
        assert!(IfMatch::parse("\"v3\"").unwrap().accepts(3));
        assert!(!IfMatch::parse("\"v3\"").unwrap().accepts(4));
    }

    #[actix_web::test]
    async fn a_get_of_a_known_version_is_304_without_a_body() {
        for (if_none_match, status) in
            [("\"v3\"", 304), ("W/\"v3\"", 304), ("\"v1\", \"v3\"", 304), ("*", 304), ("\"v4\"", 200)]
        {
            let request = TestRequest::get().insert_header(("if-none-match", if_none_match)).to_http_request();
            let response = Answer::ok(1).etag(ETag::version(3)).respond_to(&request);
            assert_eq!(response.status().as_u16(), status, "{if_none_match}");
            assert_eq!(response.headers().get("etag").unwrap(), "\"v3\"");
        }
        let request = TestRequest::post().insert_header(("if-none-match", "*")).to_http_request();
        assert_eq!(Answer::ok(1).etag(ETag::version(3)).respond_to(&request).status(), StatusCode::OK);
    }
}
