//! The OpenAPI 3.1 document, made of the same list of routes that is served.
//!
//! utoipa gives each handler's request and success; what follows from the shape of a request is added here, once: the
//! key and roles, the codes of the gate and of the extractors, the codes that the route names. So every status that
//! can be answered is in the document with its codes.

use std::collections::{BTreeMap, BTreeSet};

use actix_web::http::Method;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::ParameterIn;

use super::answer::IfMatch;
use super::ops::example;
use super::route::Route;
use super::{number, problem};
use crate::problem::Code;
use crate::request::KEY_CHARS_MAX;

const SCHEME: &str = "api_key";

/// Renders the document.
///
/// # Panics
/// When two types have one name: a programmer's error, met by the first test and at every start.
pub fn document(routes: &[Route]) -> Value {
    let mut schemas = BTreeMap::new();
    let mut twice = BTreeSet::new();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let mut named = Vec::new();
        (route.schemas)(&mut named);
        for (name, schema) in named {
            let schema = closed(plain(&schema));
            if schemas.insert(name.clone(), schema.clone()).is_some_and(|other| other != schema) {
                twice.insert(name);
            }
        }
        paths.entry(&route.path).or_default().insert(route.method.as_str().to_ascii_lowercase(), operation(route));
    }
    assert!(twice.is_empty(), "two types are called {twice:?} in the document: say #[schema(as = …)] of one of each");
    schemas.insert("Problem".to_owned(), problem_schema());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tessera",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Members and coupons of a retail chain. Errors are RFC 9457 problems; compare their `code`, \
                            which never changes its meaning. Every write that carries a request number can be sent \
                            again: the first answer comes back with `Idempotency-Replayed: true`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "tsk_<id>_<secret>",
                    "description": "An API key. What it may do depends on its role; `pos` keys act for their own store.",
                },
            },
        },
        "tags": [
            {"name": "regions", "description": "How the chain is divided: a tree over its stores."},
            {"name": "stores", "description": "The stores of the chain and their registers."},
            {"name": "external systems", "description": "Whose ids identify members, as `<system>:<id>`."},
            {"name": "members", "description": "Who they are and how they are found."},
            {"name": "logs", "description": "Who did what to members, by month."},
            {"name": "member imports", "description": "Members by the million, from files, as jobs."},
            {"name": "rules", "description": "What coupons give, and how many there are."},
            {"name": "coupons", "description": "Issue, redeem, reverse."},
            {"name": "issue jobs", "description": "Coupons for many, as jobs: looked at first, and taken back."},
            {"name": "coupon imports", "description": "Coupons of older systems, with the codes that they have."},
            {"name": "tills", "description": "What tills did offline, and what their days came to."},
            {"name": "requests", "description": "What was answered to a request number."},
            {"name": "operation", "description": "Health, metrics, this document. No key needed."},
        ],
    })
}

fn plain<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("documents have string keys and no failing serializers")
}

/// Closes the variants of a tagged enum: serde's `deny_unknown_fields` holds for them, but utoipa says so only of
/// structs. A variant is known by its tag, a property of one value.
fn closed(mut schema: Value) -> Value {
    for variant in schema.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let tagged = variant["properties"].as_object().is_some_and(|properties| {
            properties.values().any(|property| property["enum"].as_array().is_some_and(|values| values.len() == 1))
        });
        if tagged {
            variant["additionalProperties"] = false.into();
        }
    }
    schema
}

fn operation(route: &Route) -> Value {
    let mut operation = plain(&route.document);
    operation["operationId"] = route.operation.into();
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        without_null(&mut parameter["schema"]);
    }
    match route.roles {
        Some(roles) => {
            let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
            let text = operation["description"].as_str().unwrap_or_default();
            operation["description"] = format!("{text}\n\nRoles: {}.", names.join(", ")).trim_start().into();
            // OpenAPI 3.1 lets the scopes of a scheme other than OAuth be role names.
            operation["security"] = json!([{ SCHEME: names }]);
        }
        None => operation["security"] = json!([]),
    }
    if route.method == Method::GET && operation["responses"]["200"]["headers"].get("ETag").is_some() {
        operation["responses"]["304"] = json!({"description": "`If-None-Match` names the version that there is"});
    }
    add_common_headers(&mut operation);
    say_what_headers_hold(&mut operation);
    for (status, codes) in codes_of(route) {
        let response = &mut operation["responses"][status.to_string()];
        // A 503 of /readyz is a report, not a problem.
        if response["content"].is_null() {
            *response = problem_response(&codes);
        }
    }
    operation
}

/// A parameter that may be absent is never null: a header that says `null` is a header. utoipa takes `Option` for both.
fn without_null(schema: &mut Value) {
    if let Some(variants) = schema.get_mut("oneOf").and_then(Value::as_array_mut) {
        variants.retain(|variant| variant["type"] != "null");
        if let [only] = variants.as_mut_slice() {
            *schema = only.take();
        }
    }
}

fn add_common_headers(operation: &mut Value) {
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for response in responses.values_mut() {
        response["headers"]["Server-Timing"] = json!({
            "description": "What the answer has cost, in milliseconds, statements and leaves.",
            "schema": {"type": "string"},
        });
    }
}

/// The headers that extractors check, said once for all operations.
fn say_what_headers_hold(operation: &mut Value) {
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        if parameter["in"] != "header" {
            continue;
        }
        match parameter["name"].as_str() {
            Some(number::HEADER) => {
                parameter["description"] = number::DESCRIPTION.into();
                parameter["schema"] = json!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": KEY_CHARS_MAX,
                    "pattern": "^[!-~]+$",
                    "examples": ["order-S0001-0093"],
                });
            }
            Some("If-Match") => parameter["schema"] = plain(&<IfMatch as utoipa::PartialSchema>::schema()),
            _ => {}
        }
    }
}

/// Every code that a route can answer with, by status.
fn codes_of(route: &Route) -> BTreeMap<u16, BTreeSet<&'static str>> {
    let mut codes = vec![Code::MalformedQuery, Code::Internal, Code::Unavailable];
    codes.extend(route.codes);
    codes.extend(route.at_store.codes());
    if let Some(roles) = route.roles {
        codes.extend([Code::Unauthenticated, Code::RoleForbidden, Code::TooManyRequests, Code::Overloaded]);
        if roles.contains(&crate::chain::key::Role::Pos) {
            codes.push(Code::StoreForbidden);
        }
    }
    if route.has_parameter(&ParameterIn::Path) {
        codes.push(Code::MalformedPath);
    }
    if route.document.request_body.is_some() {
        codes.extend([
            Code::MalformedBody,
            Code::InvalidField,
            Code::UnsupportedMediaType,
            Code::BodyTooLarge,
            Code::RequestTimeout,
        ]);
    }
    if route.has_header("If-Match") {
        codes.extend([Code::PreconditionFailed, Code::MalformedHeader]);
        if route.needs_header("If-Match") {
            codes.push(Code::PreconditionRequired);
        }
    }
    if route.is_numbered() {
        codes.extend([
            Code::RequestNumberRequired,
            Code::RequestNumberExpired,
            Code::RequestNumberReused,
            Code::MalformedHeader,
            Code::OutcomeUnknown,
        ]);
    }
    let mut by_status: BTreeMap<u16, BTreeSet<&'static str>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status()).or_default().insert(code.name());
    }
    by_status
}

fn problem_response(codes: &BTreeSet<&'static str>) -> Value {
    let all = Code::ALL.iter().filter(|code| codes.contains(code.name()));
    let lines: Vec<String> = all.clone().map(|code| format!("`{}`: {}", code.name(), code.title())).collect();
    let examples: Map<String, Value> =
        all.map(|&code| (code.name().to_owned(), json!({"summary": code.title(), "value": example(code)}))).collect();
    let mut response = json!({
        "description": lines.join("; "),
        "content": {
            problem::CONTENT_TYPE: {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Problem"},
                        {"type": "object", "properties": {"code": {"enum": codes}}},
                    ],
                },
                "examples": examples,
            },
        },
    });
    let status = Code::ALL.iter().find(|code| codes.contains(code.name())).map_or(0, |code| code.status());
    match status {
        401 => response["headers"]["WWW-Authenticate"] = json!({"schema": {"type": "string"}}),
        429 | 503 => {
            response["headers"]["Retry-After"] =
                json!({"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}});
        }
        _ => {}
    }
    response
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "RFC 9457. Some codes add members, such as `field` or `redeemed_at`.",
        "required": ["type", "title", "status", "code"],
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z_]+$"},
            "title": {"type": "string"},
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": {"type": "string", "description": "What clients compare."},
            "detail": {"type": "string"},
            "field": {"type": "string", "description": "The field that `malformed_body` or `invalid_field` is about."},
            "reason": {"type": "string"},
            "incident": {"type": "string", "format": "uuid", "description": "Names the entry in our log."},
            "retry_after": {"type": "integer", "minimum": 1},
        },
    })
}
