//! Bad input on every endpoint of the document: refused by name, without a trace of what must not be told.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tessera::{chain::key::Role, clock::Clock};

use crate::{
    schema::{Rows, bodies, make_rows, paths},
    support::{
        TestApp, TestDb,
        server::{Client, Keys, Response, fresh_number, make_key, make_store, settings},
    },
};

/// One operation of the served document.
struct Operation {
    id: String,
    method: Method,
    path: String,
    /// `None`: anybody.
    roles: Option<Vec<String>>,
    takes_query: bool,
    /// Name → schema of the fields of a JSON body.
    fields: Option<BTreeMap<String, Value>>,
}

/// A server with rows, its operations and the frozen table of codes.
struct Bench {
    app: TestApp,
    rows: Rows,
    operations: Vec<Operation>,
    codes: BTreeMap<String, u16>,
    paths: BTreeMap<String, Vec<(String, String)>>,
    bodies: BTreeMap<String, Value>,
}

impl Bench {
    async fn new() -> Self {
        let db = TestDb::new().await;
        let keys = Keys::make(&db).await;
        let mut settings = settings();
        settings.limits.bad_keys_per_minute = 0;
        settings.limits.bad_codes_per_minute = 0;
        settings.limits.reveals_per_minute = 0;
        let app = TestApp::on(&db, keys, settings, Clock::system()).await;
        let rows = make_rows(&app.client).await;
        let owned = |(id, parts): (&str, Vec<(&str, &str)>)| {
            (id.to_owned(), parts.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
        };
        let paths = paths(&rows).into_iter().map(owned).collect();
        let bodies = bodies(&rows).into_iter().map(|(id, body)| (id.to_owned(), body)).collect();
        let document = app.client.get("/openapi.json", "").await.expect(200).json;
        let problems = app.client.get("/problems", "").await.expect(200).json;
        let codes = problems["items"].as_array().unwrap().iter();
        let codes = codes.map(|one| (one["code"].as_str().unwrap().to_owned(), one["status"].as_u64().unwrap() as u16));
        Self { codes: codes.collect(), operations: operations(&document), app, rows, paths, bodies }
    }

    fn api(&self) -> &Client {
        &self.app.client
    }

    /// The operation's path with real ids, or with one of them replaced.
    fn path(&self, operation: &Operation, replaced: Option<(&str, &str)>) -> String {
        let mut path = operation.path.clone();
        for (name, value) in self.paths.get(&operation.id).into_iter().flatten() {
            let value = match replaced {
                Some((other, value)) if other == name => value,
                _ => value,
            };
            path = path.replace(&format!("{{{name}}}"), value);
        }
        assert!(!path.contains('{'), "schema::paths has no ids for {}", operation.id);
        path
    }

    /// Well-formed but for what the caller adds: number and precondition are there.
    fn request(&self, operation: &Operation, path: &str, key: &str) -> RequestBuilder {
        let request = self.api().raw(operation.method.clone(), path).bearer_auth(key);
        request.header("idempotency-key", fresh_number()).header("if-match", "*")
    }

    /// A body that the operation takes.
    fn body(&self, operation: &Operation) -> Option<Value> {
        operation.fields.as_ref()?;
        Some(
            self.bodies
                .get(&operation.id)
                .unwrap_or_else(|| panic!("schema::bodies has none for {}", operation.id))
                .clone(),
        )
    }

    /// A problem of the table, never ours, that tells nothing.
    #[track_caller]
    fn refused(&self, what: &str, response: &Response, codes: &[&str]) {
        let (status, code) = (response.status.as_u16(), response.code());
        assert!((400..500).contains(&status), "{what}: {status} {}", response.text);
        assert_eq!(response.header("content-type"), Some("application/problem+json"), "{what}: {}", response.text);
        assert_eq!(self.codes.get(code), Some(&status), "{what}: {}", response.text);
        assert!(codes.is_empty() || codes.contains(&code), "{what}: {} instead of {codes:?}", response.text);
        let keys = &self.api().keys;
        let secrets = [&keys.pos, &keys.marketing, &keys.ops, &keys.admin].map(|key| key.rsplit_once('_').unwrap().1);
        for secret in secrets.into_iter().chain(["3800000001", "lin@example.cn", "Nanjing Road", "select ", "/src/"]) {
            assert!(!response.text.contains(secret), "{what} tells {secret}: {}", response.text);
        }
        assert!(response.text.len() < 4_000, "{what}: an error of {} bytes", response.text.len());
    }
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let roles = operation["security"].as_array().unwrap().first().map(|scheme| {
                let roles = scheme["api_key"].as_array().unwrap();
                roles.iter().map(|role| role.as_str().unwrap().to_owned()).collect()
            });
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let fields = (!schema.is_null()).then(|| {
                let schema = resolve(document, schema);
                let variants = schema["anyOf"].as_array().map_or(std::slice::from_ref(schema), Vec::as_slice);
                let properties =
                    variants.iter().flat_map(|one| resolve(document, one)["properties"].as_object().unwrap());
                properties.map(|(name, field)| (name.clone(), value_schema(document, field).clone())).collect()
            });
            operations.push(Operation {
                id: operation["operationId"].as_str().unwrap().to_owned(),
                method: method.to_uppercase().parse().unwrap(),
                path: path.clone(),
                roles,
                takes_query: parameters.iter().any(|parameter| parameter["in"] == "query"),
                fields,
            });
        }
    }
    operations
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// What a field holds when it is not null.
fn value_schema<'a>(document: &'a Value, field: &'a Value) -> &'a Value {
    let variants = field["oneOf"].as_array().map_or(&[][..], Vec::as_slice);
    let value = variants.iter().find(|one| one["type"] != "null").filter(|_| variants.len() == 2);
    resolve(document, value.unwrap_or(field))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_for_a_key_of_the_right_role() {
    let bench = Bench::new().await;
    let keys = &bench.api().keys;
    let by_role = [("pos", &keys.pos), ("marketing", &keys.marketing), ("ops", &keys.ops), ("admin", &keys.admin)];
    let forged = format!("{}{}", &keys.admin[..keys.admin.len() - 4], "AAAA");
    for operation in &bench.operations {
        let (id, path) = (&operation.id, bench.path(operation, None));
        let api = bench.api();
        let Some(roles) = &operation.roles else {
            assert!(!path.starts_with("/v1/"), "{id} is open to all");
            api.get(&path, "").await.expect(200);
            continue;
        };
        assert!(path.starts_with("/v1/"));
        let ask = |header: Option<&str>| {
            let request = api.raw(operation.method.clone(), &path).json(&json!({}));
            api.send(match header {
                Some(header) => request.header("authorization", header),
                None => request,
            })
        };
        for header in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer x"),
            Some("Basic dXNlcjpwYXNz"),
            Some(&*format!("Bearer {forged}")),
            Some("Bearer tsk_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            Some(&*format!("Bearer {}", "x".repeat(4000))),
        ] {
            let answer = ask(header).await;
            bench.refused(&format!("{id} with {header:?}"), &answer, &["unauthenticated"]);
            assert!(answer.header("www-authenticate").is_some(), "{id}");
        }
        for (role, key) in by_role.iter().filter(|(role, _)| !roles.iter().any(|allowed| allowed == role)) {
            let answer = ask(Some(&format!("Bearer {key}"))).await;
            bench.refused(&format!("{id} as {role}"), &answer, &["role_forbidden"]);
        }
        if !operation.takes_query {
            let answer = bench.request(operation, &format!("{path}?verbose=1"), &keys.admin).json(&json!({}));
            bench.refused(id, &api.send(answer).await, &["malformed_query"]);
        } else {
            for query in ["limit=0", "limit=x", "limit=1&limit=2", "unknown=1", "cursor=%00", "cursor=zz", "state=%ff"]
            {
                let request = bench.request(operation, &format!("{path}?{query}"), &keys.admin);
                let answer = match bench.body(operation) {
                    Some(body) => api.send(request.json(&body)).await,
                    None => api.send(request.header("content-type", "text/csv")).await,
                };
                bench.refused(&format!("{id}?{query}"), &answer, &["malformed_query"]);
            }
        }
    }
    bench.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_in_one_request_are_none() {
    let bench = Bench::new().await;
    let api = bench.api();
    for keys in [[&api.keys.admin, &api.keys.pos], [&api.keys.pos, &api.keys.admin], [&api.keys.pos, &api.keys.pos]] {
        let request = api.raw(Method::GET, "/v1/stores/S0001").bearer_auth(keys[0]).bearer_auth(keys[1]);
        bench.refused("two keys", &api.send(request).await, &["unauthenticated"]);
    }
    bench.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_is_checked_before_anything_is_done() {
    let bench = Bench::new().await;
    let before = bench.app.db.count(EVERYTHING).await;
    let admin = &bench.api().keys.admin;
    let deep = format!("{}1{}", "[".repeat(5_000), "]".repeat(5_000));
    for operation in &bench.operations {
        let (id, path) = (&operation.id, bench.path(operation, None));
        let Some(good) = bench.body(operation) else { continue };
        let send = async |content_type: Option<&str>, body: Vec<u8>| {
            let request = bench.request(operation, &path, admin).body(body);
            bench
                .api()
                .send(match content_type {
                    Some(content_type) => request.header("content-type", content_type),
                    None => request,
                })
                .await
        };
        let json_type = Some("application/json");
        for body in [
            &b""[..],
            b"{",
            b"[]",
            b"null",
            b"\"text\"",
            b"1e999",
            b"{\"\xff\":1}",
            b"{}\0",
            b"\0",
            b"{} {}",
            deep.as_bytes(),
        ] {
            let what = format!("{id} {}", String::from_utf8_lossy(&body[..body.len().min(20)]));
            bench.refused(&what, &send(json_type, body.to_vec()).await, &["malformed_body"]);
        }
        let text = good.to_string().into_bytes();
        for content_type in
            [None, Some("text/plain"), Some("application/xml"), Some("application/json; charset=latin1")]
        {
            let answer = send(content_type, text.clone()).await;
            bench.refused(&format!("{id} as {content_type:?}"), &answer, &["unsupported_media_type"]);
        }
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(2_000_000));
        bench.refused(&format!("{id}, large"), &send(json_type, large.into()).await, &["body_too_large"]);
        let mut unknown = good.clone();
        unknown["no_such_field"] = json!(1);
        let answer = send(json_type, unknown.to_string().into()).await;
        bench.refused(&format!("{id}, unknown field"), &answer, &["malformed_body"]);
        for (field, schema) in operation.fields.as_ref().unwrap() {
            for bad in bad_values(schema) {
                let mut body = good.clone();
                if id == "lookup_member" {
                    body = json!({});
                }
                // A till that was cut off is believed: an item that makes no sense is kept as a conflict.
                let items = if id == "upload_offline" { bad.as_array().map_or(0, Vec::len) } else { 0 };
                if (1..10).contains(&items) {
                    continue;
                }
                body[field] = bad;
                let what = format!("{id}.{field} = {:.60}", body[field].to_string());
                bench.refused(&what, &send(json_type, body.to_string().into()).await, &[]);
            }
        }
    }
    assert_eq!(bench.app.db.count(EVERYTHING).await, before, "nothing was written");
    bench.app.stop().await;
}

const EVERYTHING: &str = "select (select count(*) from member) + (select count(*) from member_key)
    + (select count(*) from coupon) + (select count(*) from redemption) + (select count(*) from request)
    + (select count(*) from redemption_conflict) + (select count(*) from redemption_late)
    + (select count(*) from store) + (select count(*) from region) + (select count(*) from register)
    + (select count(*) from external_system) + (select count(*) from coupon_rule) + (select count(*) from event)";

/// Of other types, too long, too large, with characters that hide.
fn bad_values(schema: &Value) -> Vec<Value> {
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => Vec::new(),
    };
    let mut bad = vec![json!([[1]])];
    if schema["additionalProperties"].is_null() || schema["additionalProperties"] == false {
        bad.push(json!({"a": 1}));
    }
    if types.contains(&"boolean") {
        bad.extend([json!("true"), json!(1), json!([])]);
        return bad;
    }
    bad.push(json!(true));
    if types.contains(&"integer") {
        bad.extend([json!("1"), json!(1.5), json!(-1), json!(i64::MIN), json!(u64::MAX), json!(1e300), json!([])]);
    } else {
        bad.extend([json!(7), json!(-1e300), json!("a\u{0}b"), json!("\u{9f}"), json!("x".repeat(20_000))]);
    }
    bad
}

/// How an operation may refuse what cannot be a value of a parameter of its path.
fn codes_of_malformed(operation: &str, name: &str) -> &'static [&'static str] {
    match name {
        // Visible ASCII is a number that nobody has used; a word is a store or a code that there is not.
        "number" => &["malformed_path", "request_not_found"],
        "store_id" => &["malformed_path", "store_not_found"],
        "region_id" => &["malformed_path", "region_not_found"],
        "tag" => &["malformed_path", "invalid_field"],
        "system" => &["malformed_path", "system_not_found"],
        "code" if operation == "get_problem" => &["malformed_path", "route_not_found"],
        "code" => &["malformed_path", "coupon_code_invalid"],
        "line" => &["malformed_path", "line_not_found"],
        _ => &["malformed_path"],
    }
}

/// What might be there and is not, for a parameter of an operation's path.
fn strangers_of(operation: &str, name: &str, codes: &[String], redemptions: &[String]) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    match name {
        "code" if operation == "get_problem" => one("no_such_code"),
        "code" => codes.to_vec(),
        "redemption_id" | "conflict_id" => redemptions.to_vec(),
        // Any word is a label, or a register to be.
        "tag" | "role" | "register" => Vec::new(),
        "system" if operation.ends_with("_role") => Vec::new(),
        "member_id" | "rule_id" | "job_id" | "address_id" | "device_no" => {
            vec!["1".to_owned(), i64::MAX.to_string()]
        }
        "store_id" => one("S9999"),
        "region_id" => one("NOWHERE"),
        "system" => one("erp-2"),
        "number" => vec!["till:S0001:9:2026-11-22:99".to_owned(), "never-used".to_owned()],
        _ => one("reboot"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_malformed_ids_are_not_found() {
    let bench = Bench::new().await;
    let admin = &bench.api().keys.admin;
    let secrets = bench.app.db.secrets();
    let day = tessera::clock::Zone::DEFAULT.day_of(bench.app.clock.now());
    let stranger = |days_ago: i64| {
        let long_ago = tessera::id::Day::from_date(day.to_date() - chrono::TimeDelta::days(days_ago));
        secrets.codes().mint(long_ago, 1_000_000_007).unwrap().to_string()
    };
    // Of today, and of a month that has no leaf.
    let codes = [stranger(0), stranger(3000)];
    let redemptions = [bench.rows.redemption.parse::<i64>().unwrap() + 77, 77].map(|id| id.to_string());
    for operation in &bench.operations {
        let body = bench.body(operation);
        for (name, _) in bench.paths.get(&operation.id).cloned().unwrap_or_default() {
            let ask = async |value: &str| {
                let path = bench.path(operation, Some((&name, value)));
                let request = bench.request(operation, &path, admin);
                bench
                    .api()
                    .send(match &body {
                        Some(body) => request.json(body),
                        None => request,
                    })
                    .await
            };
            let long = "9".repeat(2_000);
            for bad in
                ["%00", "a%00b", "-1", "9223372036854775808", "1e3", "%F0%9F%98%80", "%FF", "..%2f..", "'--", &long]
            {
                let answer = ask(bad).await;
                // Any word is a label, as far as we know; one that is short enough is a register to be.
                let may_be = ["tag", "system", "role", "register"].contains(&name.as_str());
                if !(may_be && answer.status.is_success()) {
                    let what = format!("{} {name}={bad:.40}", operation.id);
                    bench.refused(&what, &answer, codes_of_malformed(&operation.id, &name));
                }
            }
            let strangers = strangers_of(&operation.id, &name, &codes, &redemptions);
            for value in strangers {
                let answer = ask(&value).await;
                let what = format!("{} {name}={value}", operation.id);
                if name == "number" && value.starts_with("till") {
                    bench.refused(&what, &answer, &["request_not_found", "request_number_expired"]);
                    continue;
                }
                bench.refused(&what, &answer, &[]);
                assert_eq!(answer.status.as_u16(), 404, "{what}: {}", answer.text);
            }
        }
    }
    // A stranger in a body.
    let api = bench.api();
    for redemption in &redemptions {
        let body = json!({"store_id": "S0001", "redemption_id": redemption});
        let path = format!("/v1/coupons/{}/reverse", bench.rows.used);
        let answer = api.post_numbered(&path, admin, &fresh_number(), body).await;
        bench.refused("reverse", &answer, &["redemption_not_found"]);
    }
    let path = format!("/v1/coupon-rules/{}/coupons", bench.rows.rules["issue"]);
    let answer = api.post_numbered(&path, admin, &fresh_number(), json!({"member_id": "1"})).await;
    bench.refused("issue", &answer, &["member_not_found"]);
    bench.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_till_acts_for_its_own_store_only() {
    let bench = Bench::new().await;
    let api = bench.api();
    let mut conn = bench.app.db.sql().await;
    make_store(&mut conn, "S0077").await;
    let other = make_key(&mut conn, Role::Pos, Some("S0077"), 77).await;
    let redeem = format!("/v1/coupons/{}/redeem", bench.rows.code);
    let reverse = format!("/v1/coupons/{}/reverse", bench.rows.used);
    let undo = json!({"store_id": "S0001", "redemption_id": bench.rows.redemption});
    let sale = |store: &str| json!({"store_id": store, "order_ref": "S0077-1", "amount": 8000});
    let (lock, validate) = (redeem.replace("/redeem", "/lock"), redeem.replace("/redeem", "/validate"));
    let hold = json!({"store_id": "S0001", "order_ref": "S0077-1"});
    let mut basket = sale("S0001");
    basket["coupons"] = json!([{"code": bench.rows.code}]);
    for (path, body) in [
        (&redeem, sale("S0001")),
        (&reverse, undo),
        (&redeem, sale("S9999")),
        (&lock, hold),
        (&validate, sale("S0001")),
        (&"/v1/redemptions".to_owned(), basket),
    ] {
        let answer = api.post_numbered(path, &other, &fresh_number(), body).await;
        bench.refused(path, &answer, &["store_forbidden"]);
    }
    bench.refused("get_store", &api.get("/v1/stores/S0001", &other).await, &["store_forbidden"]);
    let member = json!({"username": "stranger", "store_id": "S0001"});
    bench.refused("register", &api.post("/v1/members", &other, member).await, &["store_forbidden"]);
    // Request numbers belong to the store: what another till was answered is not told.
    let path = format!("/v1/requests/redeem/{}", bench.rows.number);
    bench.refused("get_request", &api.get(&path, &other).await, &["request_not_found"]);
    // Nor may a till name the request of another store's.
    let foreign = "till:S0001:2:2026-11-22:417";
    let answer = api.get(&format!("/v1/requests/redeem/{foreign}"), &other).await;
    bench.refused("get_request", &answer, &["store_forbidden"]);
    for (path, body) in [(&redeem, sale("S0077")), (&"/v1/members".to_owned(), json!({"username": "stranger"}))] {
        let answer = api.post_numbered(path, &other, foreign, body).await;
        bench.refused(path, &answer, &["store_forbidden"]);
    }
    let answer = api.post_numbered(&redeem, &api.keys.admin, &fresh_number(), sale("S9999")).await;
    bench.refused("no such store", &answer, &["store_not_found"]);
    bench.app.stop().await;
}

/// Uses of coupon and request leaves that PostgreSQL has counted.
const TOUCHES: &str = "select coalesce(sum(seq_scan + coalesce(idx_scan, 0) + n_tup_ins), 0)::bigint
    from pg_stat_user_tables where relname ~ '^(coupon|request)_[md]'";

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_mistyped_codes_reach_no_table() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = settings();
    settings.limits.bad_codes_per_minute = 0;
    settings.lane.lane_readers = 1;
    let app = TestApp::on(&db, keys, settings, Clock::system()).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    settle(&db).await;
    let before = db.count(TOUCHES).await;
    let symbols = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    for n in 0..200_usize {
        // Each symbol mistyped in turn, and plain inventions.
        let at = n % code.len();
        let wrong = symbols.chars().nth(n % 32).unwrap();
        let mut mistyped: String =
            code.chars().enumerate().map(|(place, symbol)| if place == at { wrong } else { symbol }).collect();
        if mistyped == code || code.as_bytes()[at] == b'-' {
            mistyped = format!("{:04}-0000-0000-{:04}", n, n);
        }
        let answer = match n % 3 {
            0 => api.get(&format!("/v1/coupons/{mistyped}"), &api.keys.pos).await,
            1 => api.redeem(&mistyped).await,
            _ => {
                let body = json!({"store_id": "S0001", "redemption_id": "1"});
                let path = format!("/v1/coupons/{mistyped}/reverse");
                api.post_numbered(&path, &api.keys.pos, &fresh_number(), body).await
            }
        };
        assert_eq!((answer.status.as_u16(), answer.code()), (422, "coupon_code_invalid"), "{mistyped}");
        assert!(!answer.header("server-timing").unwrap().contains("db;"), "{answer:?}");
    }
    // The counter counts: good codes through the same connection, until it has told of them.
    let mut sent = 0;
    let seen = loop {
        api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await.expect(200);
        sent += 1;
        let seen = db.count(TOUCHES).await - before;
        if seen > 0 {
            break seen;
        }
        assert!(sent < 200, "the statistics do not come");
        tokio::time::sleep(Duration::from_millis(25)).await;
    };
    assert!(seen <= sent, "{seen} uses of leaves by {sent} good codes");
    app.stop().await;
}

/// Waits until what was done before is counted.
async fn settle(db: &TestDb) {
    let mut last = (db.count(TOUCHES).await, 0);
    for _ in 0..400 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = db.count(TOUCHES).await;
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        if last.1 > 60 {
            return;
        }
    }
    panic!("the statistics do not settle");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_codes_costs_its_caller_and_nobody_else() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    let mut refused = 0;
    for n in 0..200 {
        let answer = api.get(&format!("/v1/coupons/0000-0000-0000-{n:04}"), &api.keys.pos).await;
        match (answer.status.as_u16(), answer.code()) {
            (422, "coupon_code_invalid") => {}
            (429, "too_many_bad_codes") => {
                let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!((1..=60).contains(&wait), "{wait}");
                refused += 1;
            }
            _ => panic!("{answer:?}"),
        }
    }
    assert!(refused > 100, "{refused} of 200 were refused");
    // A right guess among too many wrong ones is refused as well, and everything else goes on.
    let path = format!("/v1/coupons/{code}");
    assert_eq!(api.get(&path, &api.keys.pos).await.expect(429).code(), "too_many_bad_codes");
    assert_eq!(api.redeem(&code).await.expect(429).code(), "too_many_bad_codes");
    api.get("/v1/stores/S0001", &api.keys.pos).await.expect(200);
    api.get(&path, &api.keys.admin).await.expect(200);
    app.stop().await;
}
