//! Strict extractors: what a handler gets has been checked, and what is wrong is named.
//!
//! - [`Json`]: `application/json` only (415), bounded in size (413), time (408) and depth, no unknown or repeated
//!   fields, no trailing text (400 `malformed_body`); values outside their limits are 422 `invalid_field`. Both name
//!   the `field`. Types say `#[serde(deny_unknown_fields)]`; a test over the OpenAPI document holds them to it.
//! - [`Query`]: unknown and repeated parameters are refused (400 `malformed_query`).
//! - [`At`]: a segment that is not a well-formed id names nothing (404 `malformed_path`).

use std::future::{Ready, ready};
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::web::{self, Bytes, BytesMut};
use actix_web::{FromRequest, HttpRequest};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use super::input::INVALID;
use super::problem::ApiError;
use crate::problem::{Code, Refusal};

/// Levels of arrays and objects in a body.
pub const DEPTH_MAX: usize = 32;

/// How much of a body an endpoint takes, and for how long it waits for it. Set on each resource.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit {
    pub bytes_max: usize,
    pub timeout: Duration,
}

impl Default for BodyLimit {
    fn default() -> Self {
        Self { bytes_max: 64 * 1024, timeout: Duration::from_secs(10) }
    }
}

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = read_body(request, payload, "application/json");
        Box::pin(async move { Ok(Self(parse(&body.await?)?)) })
    }
}

/// The body of a request, if it is of this media type and within the limits of its resource.
///
/// # Errors
/// `unsupported_media_type`, `body_too_large`, `request_timeout`, `malformed_body` when it breaks off.
pub(super) fn read_body(
    request: &HttpRequest,
    payload: &mut Payload,
    media_type: &'static str,
) -> impl Future<Output = Result<Bytes, Refusal>> + 'static {
    let limit = request.app_data::<BodyLimit>().copied().unwrap_or_default();
    let ready = is_of(request, media_type).and_then(|()| announced_size(request, limit.bytes_max));
    let payload = payload.take();
    async move {
        ready?;
        tokio::time::timeout(limit.timeout, read(payload, limit.bytes_max))
            .await
            .map_err(|_| Refusal::new(Code::RequestTimeout).detail("the body did not arrive in time"))?
    }
}

fn is_of(request: &HttpRequest, media_type: &str) -> Result<(), Refusal> {
    let refused = || {
        Refusal::new(Code::UnsupportedMediaType)
            .detail(format!("send content-type: {media_type}, uncompressed, in UTF-8"))
    };
    let headers = request.headers();
    let encoded = headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity");
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(refused)?;
    let mut parts = content_type.split(';').map(str::trim);
    let is_type = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case(media_type));
    let utf8 = parts.filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if is_type && utf8 && !encoded { Ok(()) } else { Err(refused()) }
}

fn announced_size(request: &HttpRequest, bytes_max: usize) -> Result<(), Refusal> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > bytes_max) { Err(too_large(bytes_max)) } else { Ok(()) }
}

fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(Code::BodyTooLarge).detail(format!("at most {bytes_max} bytes")).with("bytes_max", bytes_max)
}

async fn read(mut payload: Payload, bytes_max: usize) -> Result<Bytes, Refusal> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|error| Refusal::new(Code::MalformedBody).detail(format!("the body broke off: {error}")))?;
        if body.len() + chunk.len() > bytes_max {
            return Err(too_large(bytes_max));
        }
        if body.is_empty() && chunk.len() > bytes_max / 2 {
            body.reserve(chunk.len());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Parses a body. Public for handlers that keep the bytes, and for tests.
///
/// # Errors
/// `malformed_body` or `invalid_field`, with the `field`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if !depth_fits(body) {
        return Err(malformed(None, format!("more than {DEPTH_MAX} levels of nesting")));
    }
    // serde reads structs from arrays too; every body of ours is an object.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(malformed(None, "an object is expected, not an array".to_owned()));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        // The path is `.` at the top and ends in `?` where the text breaks off within a name.
        let path = error.path().to_string();
        let field = path.trim_end_matches(['?', '.']);
        let field = (!field.is_empty()).then(|| speakable(field));
        from_serde(field, error.inner())
    })?;
    deserializer.end().map_err(|error| from_serde(None, &error))?;
    Ok(value)
}

fn from_serde(field: Option<String>, error: &serde_json::Error) -> Refusal {
    let mut message = error.to_string();
    if error.classify() == Category::Data {
        // ` at line 1 column 9` says nothing where the field is named.
        if let Some(at) = message.rfind(" at line ") {
            message.truncate(at);
        }
        if let Some(reason) = message.strip_prefix(INVALID) {
            return Refusal::invalid_field(field.as_deref().unwrap_or(""), reason);
        }
    }
    malformed(field, without_values(&message))
}

/// Whether this may be said again: small letters and few digits, as our names are. A number, an address or a name of a
/// person that was sent in the place of a field's name is not.
fn is_like_a_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= 40 && name.bytes().all(fits) && name.bytes().filter(u8::is_ascii_digit).count() <= 4
}

/// A path to a field, such as `parts[1].n`, up to what is no name.
fn speakable(path: &str) -> String {
    let is_one = |part: &str| {
        let (name, index) = part.split_at(part.find('[').unwrap_or(part.len()));
        let is_index = index.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'[' | b']'));
        is_like_a_name(name) && is_index && index.len() < 10
    };
    let parts: Vec<&str> = path.split('.').collect();
    let names = parts.iter().take_while(|part| is_one(part)).count();
    let mut said = parts[..names].to_vec();
    if names < parts.len() {
        said.push("?");
    }
    said.join(".")
}

/// serde repeats the value that it did not expect, which may be long, or somebody's.
fn without_values(message: &str) -> String {
    const CHARS_MAX: usize = 200;
    let between = |from: &str, to: &str| match (message.find(from), message.rfind(to)) {
        (Some(start), Some(end)) if start + from.len() <= end => Some((start + from.len(), end)),
        _ => None,
    };
    let cut = |from: usize, to: usize| format!("{}{}", message[..from].trim_end(), &message[to..]);
    let said = if let Some((from, to)) = between("string \"", "\", expected ") {
        cut(from - 1, to + 1)
    } else if let Some((from, to)) = between("unknown variant `", "`, expected ") {
        cut(from - 1, to + 1)
    } else if let Some((from, to)) = between("unknown field `", "`, expected ") {
        if is_like_a_name(&message[from..to]) { message.to_owned() } else { cut(from - 1, to + 1) }
    } else {
        message.to_owned()
    };
    said.chars().take(CHARS_MAX).collect()
}

fn malformed(field: Option<String>, message: String) -> Refusal {
    let refusal = Refusal::new(Code::MalformedBody);
    match field {
        Some(field) => refusal.detail(format!("{field}: {message}")).with("field", field),
        None => refusal.detail(message),
    }
}

/// Bounds the nesting before anything is built, also of values that are skipped or kept as they are.
fn depth_fits(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    true
}

/// The query string.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(match web::Query::<T>::from_query(request.query_string()) {
            Ok(query) => Ok(Self(query.into_inner())),
            Err(error) => {
                let message = error.to_string().replace(INVALID, "");
                let message = message.strip_prefix("Query deserialize error: ").unwrap_or(&message);
                Err(Refusal::new(Code::MalformedQuery).detail(message).into())
            }
        })
    }
}

/// The variable parts of the path: one value, or a tuple of them. (Not called `Path`: utoipa takes each argument of that
/// name for a set of parameters of its own.)
#[derive(Debug)]
pub struct At<T>(pub T);

impl<T: DeserializeOwned> FromRequest for At<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let outcome = web::Path::<T>::from_request(request, payload).into_inner();
        ready(outcome.map(|path| Self(path.into_inner())).map_err(|error| {
            let detail = error.to_string().replace(INVALID, "");
            Refusal::new(Code::MalformedPath).detail(detail).into()
        }))
    }
}

#[cfg(test)]
mod tests {
    use actix_web::{App, HttpResponse, test};
    use serde::Deserialize;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::input::{self, Int};

    crate::text_type! {
        /// A name for tests.
        Name: text 1..=4, "Lin";
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Body {
        name: Name,
        #[serde(default, deserialize_with = "input::present")]
        amount: Option<Int<1, 100>>,
        #[serde(default)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Part {
        #[serde(deserialize_with = "input::int")]
        n: i16,
    }

    #[actix_web::test]
    async fn bodies_are_refused_by_code_and_field() {
        let deep = format!("{{\"name\":{}1{}}}", "[".repeat(40), "]".repeat(40));
        for (body, code, field) in [
            (r#"{"name":"Lin"}"#, None, None),
            (r#" {"name":"Lin","amount":7.0,"parts":[{"n":1}]} "#, None, None),
            ("", Some("malformed_body"), None),
            ("[]", Some("malformed_body"), None),
            ("null", Some("malformed_body"), None),
            (r#"{"name":"Lin"} x"#, Some("malformed_body"), None),
            (r#"{"name":"Lin""#, Some("malformed_body"), None),
            (r#"{}"#, Some("malformed_body"), None),
            (r#"{"name":1}"#, Some("malformed_body"), Some("name")),
            (r#"{"name":"Lin","x":1}"#, Some("malformed_body"), Some("x")),
            (r#"{"name":"Lin","13800000001":1}"#, Some("malformed_body"), Some("?")),
            (r#"{"name":"Lin","lin@example.cn":1}"#, Some("malformed_body"), Some("?")),
            (r#"{"name":"Lin","name":"Li"}"#, Some("malformed_body"), None),
            (r#"{"name":"Lin","amount":null}"#, Some("malformed_body"), Some("amount")),
            (r#"{"name":"Lin","amount":1.5}"#, Some("malformed_body"), Some("amount")),
            (r#"{"name":"Lin","amount":101}"#, Some("invalid_field"), Some("amount")),
            (r#"{"name":"Lin","amount":1e99}"#, Some("invalid_field"), Some("amount")),
            (r#"{"name":"Lin","amount":1e999}"#, Some("malformed_body"), Some("amount")),
            (r#"{"name":"","amount":1}"#, Some("invalid_field"), Some("name")),
            (r#"{"name":"a\u0000"}"#, Some("invalid_field"), Some("name")),
            (r#"{"name":"\ud800"}"#, Some("malformed_body"), Some("name")),
            (r#"{"name":"Lin","parts":[{"n":1},{"n":99999}]}"#, Some("invalid_field"), Some("parts[1].n")),
            (r#"{"name":"Lin","parts":[{"n":"1"}]}"#, Some("malformed_body"), Some("parts[0].n")),
            (&deep, Some("malformed_body"), None),
        ] {
            let refusal = parse::<Body>(body.as_bytes()).err();
            assert_eq!(refusal.as_ref().map(|r| r.code.name()), code, "{body}");
            let named = refusal.as_ref().and_then(|r| r.extra.get("field")).and_then(Value::as_str);
            assert_eq!(named, field, "{body} {refusal:?}");
        }
        let refusal = parse::<Body>(br#"{"name":"Lin","amount":101}"#).unwrap_err();
        assert_eq!(refusal.extra["reason"], "must be 1 to 100");
    }

    #[core::prelude::v1::test]
    fn what_was_sent_is_not_said_again() {
        for (body, said) in [
            (r#"{"name":"Lin","x":1}"#, "x: unknown field `x`, expected one of `name`, `amount`, `parts`"),
            (r#"{"name":"Lin","13800000001":1}"#, "?: unknown field, expected one of `name`, `amount`, `parts`"),
            (r#"{"name":"Lin","Wang, Fang":1}"#, "?: unknown field, expected one of `name`, `amount`, `parts`"),
            (r#"{"name":["Wang"]}"#, "name: invalid type: sequence, expected a string"),
        ] {
            let refusal = parse::<Body>(body.as_bytes()).unwrap_err();
            assert_eq!(refusal.detail.as_deref(), Some(said));
        }
        let variants = serde_json::from_str::<Shade>(r#""Wang, Fang""#).unwrap_err();
        assert_eq!(
            without_values(&variants.to_string()),
            "unknown variant, expected `light` or `dark` at line 1 column 12"
        );
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Shade {
        Light,
        Dark,
    }

    async fn take(_: Json<Body>) -> HttpResponse {
        HttpResponse::Ok().finish()
    }

    #[actix_web::test]
    async fn type_size_and_encoding_are_checked_before_the_body_is_read() {
        let limit = BodyLimit { bytes_max: 40, timeout: Duration::from_secs(1) };
        let app =
            test::init_service(App::new().service(web::resource("/").app_data(limit).route(web::post().to(take))))
                .await;
        let large = json!({"name": "Lin", "x": "0123456789012345678901234567890"}).to_string();
        let fits = r#"{"name":"Lin"}"#;
        for (content_type, encoding, body, status) in [
            ("application/json", "", fits, 200),
            ("Application/JSON; charset=\"UTF-8\"", "identity", fits, 200),
            ("application/json; charset=latin1", "", fits, 415),
            ("application/json", "gzip", fits, 415),
            ("text/plain", "", fits, 415),
            ("application/jsonx", "", fits, 415),
            ("", "", fits, 415),
            ("application/json", "", &large, 413),
        ] {
            let mut request = test::TestRequest::post().set_payload(body.to_owned());
            for (name, value) in [("content-type", content_type), ("content-encoding", encoding)] {
                if !value.is_empty() {
                    request = request.insert_header((name, value));
                }
            }
            let response = test::call_service(&app, request.to_request()).await;
            assert_eq!(response.status().as_u16(), status, "{content_type} {encoding} {body}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it parses matters")]
    struct Page {
        cursor: Option<Name>,
        limit: Option<Int<1, 10>>,
    }

    async fn list(_: At<Name>, _: Query<Page>) -> HttpResponse {
        HttpResponse::Ok().finish()
    }

    #[actix_web::test]
    async fn queries_and_paths_are_strict() {
        let app = test::init_service(App::new().service(web::resource("/{name}").route(web::get().to(list)))).await;
        for (uri, status) in [
            ("/Lin", 200),
            ("/Lin?limit=3&cursor=ab", 200),
            ("/Lin?limit=0", 400),
            ("/Lin?limit=x", 400),
            ("/Lin?limit=1&limit=2", 400),
            ("/Lin?other=1", 400),
            ("/Lin?cursor=abcde", 400),
            ("/abcde", 404),
            ("/%00", 404),
        ] {
            let response = test::call_service(&app, test::TestRequest::get().uri(uri).to_request()).await;
            assert_eq!(response.status().as_u16(), status, "{uri}");
            let body = test::read_body(response).await;
            assert!(!String::from_utf8_lossy(&body).contains(INVALID), "{uri}");
        }
    }
}
