//! The HTTP side as a caller sees it, without a database: what never reaches one, and what is said when it is away.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use actix_web::App;
use actix_web::http::{Method, header};
use actix_web::test::{self, TestRequest};
use actix_web::web::{self, Data};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;

use super::app::{Api, HttpSettings, Shell, routes, serve};
use super::caller::ACCESS;
use super::caller::tests::caller;
use super::limit::{LimitSettings, Rate};
use super::openapi;
use crate::chain::key::Role;
use crate::clock::{Clock, Zone};
use crate::db::pool::{Office, OfficeSettings};
use crate::problem::Code;
use crate::readiness::Readiness;

/// A shell whose database does not exist, and which knows one key of each role.
async fn shell(settings: HttpSettings) -> Arc<Shell> {
    let nowhere = PgConnectOptions::new_without_pgpass().socket("/nonexistent").username("nobody");
    let clock = Clock::fixed("2026-11-22T02:00:00Z".parse().unwrap());
    let office = Office::new(nowhere, &OfficeSettings::default());
    let shell = Shell::new(settings, clock, Zone::DEFAULT, office, Readiness::default());
    for &role in Role::ALL {
        shell.keys.put_for_tests(caller(role).0.key()).await;
    }
    Arc::new(shell)
}

/// An app over a shell. (A macro, since actix does not export the type of its requests.)
macro_rules! app {
    ($shell:expr) => {{
        let shell = Data::from($shell);
        test::init_service(App::new().configure(|config| Api::new(routes()).configure(config, &shell))).await
    }};
}

/// Status, headers and JSON body of an answer.
macro_rules! answer {
    ($app:expr, $request:expr) => {{
        let response = test::call_service(&$app, $request.to_request()).await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = test::read_body(response).await;
        (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }};
}

fn bearer(role: Role) -> (header::HeaderName, String) {
    (header::AUTHORIZATION, format!("Bearer {}", caller(role).1.reveal()))
}

const STORE: &str = r#"{"store_id":"S0001","name":"Nanjing Road"}"#;

fn post_store(body: &str) -> TestRequest {
    TestRequest::post()
        .uri("/v1/stores")
        .insert_header((header::CONTENT_TYPE, "application/json"))
        .set_payload(body.to_owned())
}

#[actix_web::test]
async fn each_request_is_refused_by_the_first_check_that_it_fails() {
    let app = app!(shell(HttpSettings::default()).await);
    let patch = || TestRequest::patch().uri("/v1/stores/S0001").insert_header(bearer(Role::Ops));
    for (request, status, code) in [
        (TestRequest::get().uri("/nowhere"), 404, "route_not_found"),
        (TestRequest::delete().uri("/v1/stores"), 405, "method_not_allowed"),
        (TestRequest::delete().uri("/healthz"), 405, "method_not_allowed"),
        (TestRequest::post().uri("/docs/"), 405, "method_not_allowed"),
        (post_store("{"), 401, "unauthenticated"),
        (post_store("{").insert_header((header::AUTHORIZATION, "Basic x")), 401, "unauthenticated"),
        (post_store("{").insert_header((header::AUTHORIZATION, "Bearer tsk_x_y")), 401, "unauthenticated"),
        (post_store("{").insert_header(bearer(Role::Pos)), 403, "role_forbidden"),
        (post_store(STORE).insert_header(bearer(Role::Ops)).uri("/v1/stores?a=1"), 400, "malformed_query"),
        (post_store("{").insert_header(bearer(Role::Ops)), 400, "malformed_body"),
        (post_store(r#"{"store_id":"a b","name":"x"}"#).insert_header(bearer(Role::Ops)), 422, "invalid_field"),
        (post_store(STORE).insert_header(bearer(Role::Ops)), 503, "unavailable"),
        (TestRequest::get().uri("/v1/stores/S0002").insert_header(bearer(Role::Pos)), 403, "store_forbidden"),
        (TestRequest::get().uri("/v1/stores/a%20b").insert_header(bearer(Role::Pos)), 404, "malformed_path"),
        (TestRequest::get().uri("/v1/stores?limit=0").insert_header(bearer(Role::Ops)), 400, "malformed_query"),
        (TestRequest::get().uri("/v1/stores?limit=5&state=open").insert_header(bearer(Role::Ops)), 503, "unavailable"),
        (patch(), 428, "precondition_required"),
        (patch().insert_header((header::IF_MATCH, "v1")), 400, "malformed_header"),
        (patch().insert_header((header::IF_MATCH, "\"v1\"")), 415, "unsupported_media_type"),
        (TestRequest::get().uri("/problems/nothing"), 404, "route_not_found"),
    ] {
        let (got, headers, body) = answer!(app, request);
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{body}");
        assert_eq!(headers.get(header::CONTENT_TYPE).unwrap(), "application/problem+json", "{body}");
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["type"], format!("/problems/{code}"), "{body}");
        assert_eq!(headers.contains_key(header::ALLOW), status == 405, "{body}");
        assert_eq!(headers.contains_key(header::WWW_AUTHENTICATE), status == 401, "{body}");
        assert_eq!(headers.contains_key(header::RETRY_AFTER), status == 503, "{body}");
    }
}

#[actix_web::test]
async fn options_and_head_are_answered() {
    let app = app!(shell(HttpSettings::default()).await);
    let (status, headers, _) = answer!(app, TestRequest::default().method(Method::OPTIONS).uri("/v1/stores"));
    assert_eq!(status, 204);
    assert_eq!(headers.get(header::ALLOW).unwrap(), "GET, HEAD, OPTIONS, POST");
    let (status, headers, _) = answer!(app, TestRequest::default().method(Method::HEAD).uri("/healthz"));
    assert_eq!(status, 200);
    assert!(headers.get("server-timing").unwrap().to_str().unwrap().starts_with("total;dur="));
}

#[actix_web::test]
async fn who_sends_more_than_its_rate_is_told_when_to_come_back() {
    let rate = |burst| Rate { per_minute: 1, burst };
    let limits = LimitSettings { requests: rate(2), auth_failures: rate(1), ..LimitSettings::default() };
    let app = app!(shell(HttpSettings { limits, ..HttpSettings::default() }).await);
    let get = || TestRequest::get().uri("/v1/stores/a%20b").peer_addr("10.0.0.1:1".parse().unwrap());
    for expected in [404, 404, 429] {
        let (status, headers, _) = answer!(app, get().insert_header(bearer(Role::Ops)));
        assert_eq!(status, expected);
        assert_eq!(headers.contains_key(header::RETRY_AFTER), expected == 429);
    }
    // Wrong secrets of a key that exists: no query, and then not even a comparison; the right one still works.
    let token = caller(Role::Admin).1.reveal();
    let wrong = format!("{}{}", &token[..token.len() - 1], if token.ends_with('0') { "1" } else { "0" });
    for expected in [401, 429] {
        let request = get().insert_header((header::AUTHORIZATION, format!("Bearer {wrong}")));
        assert_eq!(answer!(app, request).0, expected);
    }
    assert_eq!(answer!(app, get().insert_header(bearer(Role::Admin))).0, 404);
}

#[actix_web::test]
async fn readiness_names_its_reasons() {
    let shell = shell(HttpSettings::default()).await;
    let readiness = shell.readiness.clone();
    let app = app!(shell);
    let get = || TestRequest::get().uri("/readyz");
    assert_eq!(answer!(app, get()).0, 200);
    readiness.set("clock", "700 ms apart");
    let (status, _, body) = answer!(app, get());
    assert_eq!(status, 503);
    insta::assert_json_snapshot!(body, @r#"
    {
      "ready": false,
      "reasons": {
        "clock": "700 ms apart"
      }
    }
    "#);
    assert_eq!(answer!(app, TestRequest::get().uri("/healthz")).0, 200);
}

#[actix_web::test]
async fn every_code_is_explained() {
    let app = app!(shell(HttpSettings::default()).await);
    for code in Code::ALL {
        let (status, _, body) = answer!(app, TestRequest::get().uri(&format!("/problems/{}", code.name())));
        assert_eq!((status, &body["status"]), (200, &Value::from(code.status())));
    }
}

#[actix_web::test]
async fn the_pages_load_nothing_from_elsewhere() {
    let app = app!(shell(HttpSettings::default()).await);
    let response = test::call_service(&app, TestRequest::get().uri("/docs").to_request()).await;
    assert_eq!(response.headers().get(header::LOCATION).unwrap(), "/docs/");
    for file in ["", "index.html", "swagger-initializer.js", "index.css", "swagger-ui.css"] {
        let response = test::call_service(&app, TestRequest::get().uri(&format!("/docs/{file}")).to_request()).await;
        assert_eq!(response.status(), 200, "{file}");
        let policy = response.headers().get(header::CONTENT_SECURITY_POLICY).unwrap().to_str().unwrap();
        assert!(policy.starts_with("default-src 'self'"));
        if response.headers().contains_key(header::CONTENT_ENCODING) {
            continue;
        }
        let text = String::from_utf8(test::read_body(response).await.to_vec()).unwrap();
        for foreign in ["https://", "http://", "src=\"//", "@import"] {
            // Namespaces of SVG images are names, not addresses.
            let text = text.replace("http://www.w3.org/", "");
            assert!(!text.contains(foreign), "{file} has {foreign}");
        }
    }
}

#[actix_web::test]
async fn a_metric_page_and_the_document_are_served_without_a_key() {
    let app = app!(shell(HttpSettings::default()).await);
    let (status, _, body) = answer!(app, TestRequest::get().uri("/openapi.json"));
    assert_eq!((status, &body["openapi"]), (200, &Value::from("3.1.0")));
    let response = test::call_service(&app, TestRequest::get().uri("/metrics").to_request()).await;
    assert_eq!(response.status(), 200);
}

/// Visits every object of a document.
fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, value);
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| walk(value, &format!("{path}/{name}"), visit))
        }
        Value::Array(items) => items.iter().for_each(|value| walk(value, path, visit)),
        _ => {}
    }
}

#[test]
fn the_document_is_whole() {
    let document = openapi::document(&routes());
    assert_eq!(document["openapi"], "3.1.0");
    let schemas = document["components"]["schemas"].as_object().unwrap();
    walk(&document, "", &mut |path, value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{path} refers to {name}, which is not there");
        }
    });
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let what = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            assert!(operation["summary"].is_string(), "{what} has no summary");
            let responses = operation["responses"].as_object().unwrap();
            if path.starts_with("/v1/") {
                assert!(["401", "403", "429", "500", "503"].iter().all(|s| responses.contains_key(*s)), "{what}");
                assert!(!operation["security"][0]["api_key"].as_array().unwrap().is_empty(), "{what}");
            }
            assert!(responses.keys().any(|status| status.starts_with('2')), "{what} has no success");
            let named = path.matches('{').count();
            let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
            assert_eq!(parameters.iter().filter(|p| p["in"] == "path").count(), named, "{what}: path parameters");
        }
    }
}

#[test]
fn request_bodies_refuse_unknown_fields_and_say_so() {
    let document = openapi::document(&routes());
    let schemas = &document["components"]["schemas"];
    // Everything that a request body reaches.
    let mut wanted: Vec<String> = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        for operation in item.as_object().unwrap().values() {
            walk(&operation["requestBody"], "", &mut |_, value| wanted.extend(name_of(value)));
        }
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        walk(&schemas[&name], &name, &mut |path, value| {
            wanted.extend(name_of(value));
            if value["type"] == "object" && value.get("properties").is_some() {
                assert_eq!(value["additionalProperties"], false, "{path}: #[serde(deny_unknown_fields)] is missing");
            }
        });
    }
    assert!(seen.contains("NewStore"));
}

#[test]
fn variants_that_are_documented_as_closed_are() {
    let parse = |json: &str| super::extract::parse::<crate::coupon::rule::Discount>(json.as_bytes());
    assert!(parse(r#"{"type":"amount_off","amount":1000.0}"#).is_ok());
    assert_eq!(parse(r#"{"type":"amount_off","amount":0}"#).unwrap_err().code, Code::InvalidField);
    assert_eq!(parse(r#"{"type":"amount_off","amount":1000,"x":1}"#).unwrap_err().code, Code::MalformedBody);
}

fn name_of(value: &Value) -> Option<String> {
    value.get("$ref")?.as_str()?.strip_prefix("#/components/schemas/").map(str::to_owned)
}

#[actix_web::test]
async fn what_is_documented_is_served_and_guarded() {
    let app = app!(shell(HttpSettings::default()).await);
    for route in routes() {
        let uri = route.path.replace(['{', '}'], "");
        let request = TestRequest::default().method(route.method.clone()).uri(&uri);
        let (status, _, body) = answer!(app, request);
        if route.roles.is_some() {
            assert_eq!(status, 401, "{} {uri}", route.method);
        } else if body["code"] != "route_not_found" || !uri.starts_with("/problems/") {
            assert_eq!(status, 200, "{} {uri}", route.method);
        }
        assert!(route.roles.is_none() || ACCESS.iter().any(|(name, ..)| *name == route.operation));
    }
}

#[test]
fn the_table_of_codes_is_frozen() {
    let table: String =
        Code::ALL.iter().map(|code| format!("{} {} {}\n", code.status(), code.name(), code.title())).collect();
    insta::assert_snapshot!(table);
    let names: BTreeSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(names.len(), Code::ALL.len());
}

#[test]
fn the_document_is_frozen_for_stores() {
    let document = openapi::document(&crate::chain::http::routes());
    let mut paths = document["paths"].clone();
    // Examples repeat the table of codes.
    walk_mut(&mut paths, &mut |value| {
        if let Some(members) = value.as_object_mut() {
            members.remove("examples");
        }
    });
    insta::assert_json_snapshot!(paths);
}

fn walk_mut(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    visit(value);
    match value {
        Value::Object(members) => members.values_mut().for_each(|value| walk_mut(value, visit)),
        Value::Array(items) => items.iter_mut().for_each(|value| walk_mut(value, visit)),
        _ => {}
    }
}

#[actix_web::test]
async fn a_shutdown_finishes_what_was_begun_and_takes_nothing_new() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (begun, go_on) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let settings = HttpSettings { workers: 1, ..HttpSettings::default() };
    let more = {
        let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
        move |config: &mut web::ServiceConfig| {
            let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
            config.service(web::resource("/slow").to(move || {
                let (begun, go_on) = (Arc::clone(&begun), Arc::clone(&go_on));
                async move {
                    begun.notify_one();
                    go_on.notified().await;
                    "done"
                }
            }));
        }
    };
    let served = tokio::spawn(serve(listener, None, shell(settings).await, more, async {
        let _ = stopped.await;
    }));
    let slow = tokio::spawn(async move { reqwest::get(format!("http://{address}/slow")).await?.text().await });
    begun.notified().await;
    // A connection that rests must not hold the shutdown up.
    let resting = reqwest::Client::new();
    let head = resting.head(format!("http://{address}/healthz")).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], "15");
    assert_eq!(head.bytes().await.unwrap().len(), 0);
    stop.send(()).unwrap();
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    go_on.notify_one();
    assert_eq!(slow.await.unwrap().unwrap(), "done");
    tokio::time::timeout(Duration::from_secs(10), served).await.expect("it stops").unwrap().unwrap();
}
