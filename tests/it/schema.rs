//! The document holds: schemathesis asks every operation what the document allows and what it forbids.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Stdio,
};

use serde_json::{Value, json};
use tessera::clock::{Clock, Zone};
use tokio::process::Command;

use crate::support::{
    Server, TestDb,
    coupon_job::{act, done_at, jobs_of, send_file},
    job::clean,
    scaled,
    server::{Client, Keys, fresh_number},
};

/// Where `./dev test` has installed it, or where it is on the path.
fn schemathesis() -> PathBuf {
    if let Some(named) = std::env::var_os("TESSERA_SCHEMATHESIS") {
        return named.into();
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .flat_map(|dir| [dir.join("schemathesis"), dir.join("st")])
        .find(|program| program.is_file())
        .expect("schemathesis is neither in TESSERA_SCHEMATHESIS nor in PATH: run ./dev test, which installs it")
}

/// Rows for the requests to be about.
pub struct Rows {
    pub member: String,
    /// With an address and a device of its own, for what deletes.
    pub other: String,
    pub address: String,
    pub other_address: String,
    pub other_device: String,
    pub rules: BTreeMap<&'static str, String>,
    pub code: String,
    pub used: String,
    /// Coupons to be locked, made void and given to the member, by what is done to them.
    pub coupons: BTreeMap<&'static str, String>,
    pub redemption: String,
    pub conflict: String,
    pub number: String,
    /// Members to be changed, to be erased, and to have their identifiers changed, with one of those.
    pub patched: String,
    pub erased: String,
    pub keyed: String,
    pub key_id: String,
    pub imports: BTreeMap<&'static str, String>,
    /// Issue jobs of the rule 'issue', and imports of coupons.
    pub issue_jobs: BTreeMap<&'static str, String>,
    pub coupon_imports: BTreeMap<&'static str, String>,
}

pub async fn make_rows(api: &Client) -> Rows {
    let member = api.member("+8613800000001").await;
    let other = api.member("+8613800000003").await;
    let (address, _) = make_family(api, &member).await;
    let (other_address, other_device) = make_family(api, &other).await;
    let east = json!({"region_id": "EAST", "name": "East"});
    api.post("/v1/regions", &api.keys.ops, east).await.expect(201);
    // One that may be closed without anybody's missing it.
    let third = json!({"store_id": "S0003", "name": "Third"});
    api.post("/v1/stores", &api.keys.ops, third).await.expect(201);
    let mut rules = BTreeMap::new();
    for name in ["issue", "pause", "resume", "end", "patch", "claim"] {
        let more = json!({"uses": 1000, "threshold": 0, "claimable": name == "claim", "budget": 1_000_000_000,
            "stock_per_day": 1_000_000, "budget_per_store": 1_000_000_000, "stores": {"in": ["S0001"]}});
        rules.insert(name, api.rule(more).await);
    }
    let path = format!("/v1/coupon-rules/{}/pause", rules["resume"]);
    api.send(api.raw(reqwest::Method::POST, &path).bearer_auth(&api.keys.ops)).await.expect(200);
    let codes = api.issue(&rules["issue"], json!({"count": 6})).await;
    let names = ["lock", "void", "bind", "validate"];
    let coupons = names.into_iter().zip(codes[2..].iter().cloned()).collect();
    let used = api.redeem(&codes[1]).await.expect(200);
    let number = fresh_number();
    let path = format!("/v1/coupons/{}/redeem", codes[1]);
    let body = json!({"store_id": "S0001", "order_ref": "S0001-1", "amount": 8000});
    api.post_numbered(&path, &api.keys.admin, &number, body).await.expect(200);
    let conflict = conflict(api).await;
    let (patched, erased) = (api.member("+8613800000013").await, api.member("+8613800000014").await);
    let body = json!({"phone": "+8613800000005", "email": "keyed@example.cn", "external": ["web:4711"]});
    let keyed = api.post("/v1/members", &api.keys.pos, body).await.expect(201).json["member_id"].clone();
    let keyed = keyed.as_str().unwrap().to_owned();
    let listed = api.get(&format!("/v1/members/{keyed}/keys"), &api.keys.pos).await.expect(200);
    let external = listed.json["items"].as_array().unwrap().iter().find(|key| key["kind"] == json!("external"));
    let key_id = external.unwrap()["key_id"].as_str().unwrap().to_owned();
    let mut imports = BTreeMap::new();
    for name in ["get", "start", "pause", "resume", "cancel"] {
        imports.insert(name, import(api, name).await);
    }
    let (mut issue_jobs, mut coupon_imports) = (BTreeMap::new(), BTreeMap::new());
    for name in ["get", "start", "pause", "resume", "cancel", "undo"] {
        issue_jobs.insert(name, issue_job(api, &rules["issue"], name).await);
    }
    for name in ["get", "start", "pause", "resume", "cancel"] {
        coupon_imports.insert(name, coupon_import(api, name).await);
    }
    Rows {
        conflict,
        patched,
        erased,
        keyed,
        key_id,
        imports,
        issue_jobs,
        coupon_imports,
        member,
        other,
        address,
        other_address,
        other_device,
        rules,
        coupons,
        code: codes[0].clone(),
        used: codes[1].clone(),
        redemption: used.json["redemption_id"].as_str().unwrap().to_owned(),
        number,
    }
}

/// What a till did offline.
fn offline(code: &str) -> Value {
    let now = Clock::system().now();
    let item = json!({"business_date": Zone::DEFAULT.day_of(now), "sequence": 1, "redeemed_at": now, "code": code,
        "amount": 8000, "order_ref": "S0001-3"});
    json!({"store_id": "S0001", "register": "9", "items": [item]})
}

/// An offline redemption that did not fit.
async fn conflict(api: &Client) -> String {
    let mut body = offline("no code");
    body["register"] = json!("8");
    let sent = api.post("/v1/pos/offline-redemptions", &api.keys.pos, body).await.expect(200);
    sent.json["items"][0]["conflict_id"].as_str().unwrap().to_owned()
}

/// One of each thing that a member may have. Gives the ids of the address and the device.
async fn make_family(api: &Client, member: &str) -> (String, String) {
    let put = async |method, path: &str, body: Value| {
        let request = api.raw(method, &format!("/v1/members/{member}{path}")).bearer_auth(&api.keys.ops);
        let answer = api.send(request.json(&body)).await;
        assert!(answer.status.is_success(), "{}", answer.text);
        answer.json
    };
    let address = put(reqwest::Method::POST, "/addresses", json!({"receiver": "Lin", "detail": "Road 1"})).await;
    let device = put(reqwest::Method::PUT, "/devices", json!({"device_id": "8a6f1d0e"})).await;
    put(reqwest::Method::PUT, "/location", json!({"city": "Shanghai"})).await;
    put(reqwest::Method::PUT, "/profiles/mall", json!({})).await;
    let id = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    (id(&address, "address_id"), id(&device, "device_no"))
}

/// An import that waits for the act of this name, or has ended with a failure.
async fn import(api: &Client, name: &str) -> String {
    // Large enough to be met while it runs.
    let is_large = matches!(name, "pause" | "resume");
    let file = if is_large { clean(6_000) } else { format!("phone,name\n13800000001,{name}\n") };
    let path = format!("/v1/member-imports?start={}", is_large || name == "get");
    let request = api.raw(reqwest::Method::POST, &path).bearer_auth(&api.keys.ops);
    let made = api.send(request.header("content-type", "text/csv").body(file)).await.expect(201);
    let job_id = made.json["job_id"].as_str().unwrap().to_owned();
    if is_large {
        let path = format!("/v1/member-imports/{job_id}/pause");
        api.send(api.raw(reqwest::Method::POST, &path).bearer_auth(&api.keys.ops)).await.expect(200);
    }
    job_id
}

/// An issue job that the operation of this name can be about; those to be got and undone have ended.
async fn issue_job(api: &Client, rule: &str, name: &str) -> String {
    let is_large = matches!(name, "pause" | "resume");
    let body = json!({"count": if is_large { 50_000 } else { 3 }});
    let path = format!("{}?start={}", jobs_of(rule), !matches!(name, "start" | "cancel"));
    let made = api.post_numbered(&path, &api.keys.marketing, &fresh_number(), body).await.expect(201);
    let job = made.header("location").unwrap().to_owned();
    if is_large {
        act(api, &job, "pause").await.expect(200);
    }
    if matches!(name, "get" | "undo") {
        done_at(api, &job).await;
    }
    made.json["job_id"].as_str().unwrap().to_owned()
}

/// An import of coupons that the operation of this name can be about. Its rows are of no use.
async fn coupon_import(api: &Client, name: &str) -> String {
    let is_large = matches!(name, "pause" | "resume");
    let file = format!("code,rule_id,issued_on\n{}", "x,1,y\n".repeat(if is_large { 20_000 } else { 3 }));
    let path = format!("/v1/coupon-imports?start={}", !matches!(name, "start" | "cancel"));
    let made = send_file(api, &path, file).await.expect(201);
    if is_large {
        act(api, made.header("location").unwrap(), "pause").await.expect(200);
    }
    made.json["job_id"].as_str().unwrap().to_owned()
}

/// The real path of each operation that has a variable one.
pub fn paths(rows: &Rows) -> Vec<(&'static str, Vec<(&'static str, &str)>)> {
    let rule = |name: &str| vec![("rule_id", rows.rules[name].as_str())];
    let member = || vec![("member_id", rows.member.as_str())];
    let other = || vec![("member_id", rows.other.as_str())];
    let coupon = |name: &str| vec![("code", rows.coupons[name].as_str())];
    let import = |name: &str| vec![("job_id", rows.imports[name].as_str())];
    let issue_job =
        |name: &str| vec![("rule_id", rows.rules["issue"].as_str()), ("job_id", rows.issue_jobs[name].as_str())];
    let coupon_import = |name: &str| vec![("job_id", rows.coupon_imports[name].as_str())];
    vec![
        ("get_region", vec![("region_id", "EAST")]),
        ("update_region", vec![("region_id", "EAST")]),
        ("get_store", vec![("store_id", "S0001")]),
        ("update_store", vec![("store_id", "S0003")]),
        ("list_registers", vec![("store_id", "S0001")]),
        ("put_register", vec![("store_id", "S0001"), ("register", "2")]),
        ("get_external_system", vec![("system", "crm")]),
        ("update_external_system", vec![("system", "sport")]),
        ("get_member", vec![("member_id", &rows.member)]),
        ("reveal_member", vec![("member_id", &rows.member)]),
        ("get_wallet", vec![("member_id", &rows.member)]),
        ("list_member_coupons", vec![("member_id", &rows.member)]),
        ("list_rule_coupons", rule("issue")),
        ("list_member_changes", vec![("member_id", &rows.member)]),
        ("list_addresses", member()),
        ("create_address", member()),
        ("get_address", vec![("member_id", &rows.member), ("address_id", &rows.address)]),
        ("update_address", vec![("member_id", &rows.member), ("address_id", &rows.address)]),
        ("make_default_address", vec![("member_id", &rows.member), ("address_id", &rows.address)]),
        ("delete_address", vec![("member_id", &rows.other), ("address_id", &rows.other_address)]),
        ("list_devices", member()),
        ("put_device", member()),
        ("delete_device", vec![("member_id", &rows.other), ("device_no", &rows.other_device)]),
        ("get_location", member()),
        ("put_location", member()),
        ("delete_location", other()),
        ("list_profiles", member()),
        ("get_profile", vec![("member_id", &rows.member), ("line", "mall")]),
        ("put_profile", vec![("member_id", &rows.member), ("line", "mall")]),
        ("update_profile", vec![("member_id", &rows.member), ("line", "mall")]),
        ("delete_profile", vec![("member_id", &rows.other), ("line", "mall")]),
        ("list_roles", member()),
        ("grant_role", vec![("member_id", &rows.member), ("system", "mall"), ("role", "clerk")]),
        ("revoke_role", vec![("member_id", &rows.member), ("system", "mall"), ("role", "clerk")]),
        ("list_tags", member()),
        ("change_tags", member()),
        ("put_tag", vec![("member_id", &rows.member), ("tag", "likes-tea")]),
        ("delete_tag", vec![("member_id", &rows.member), ("tag", "likes-tea")]),
        ("update_member", vec![("member_id", &rows.patched)]),
        ("erase_member", vec![("member_id", &rows.erased)]),
        ("export_member", vec![("member_id", &rows.member)]),
        ("list_keys", vec![("member_id", &rows.keyed)]),
        ("add_key", vec![("member_id", &rows.keyed)]),
        ("change_key", vec![("member_id", &rows.keyed)]),
        ("verify_key", vec![("member_id", &rows.keyed)]),
        ("transfer_key", vec![("member_id", &rows.keyed)]),
        ("release_key", vec![("member_id", &rows.keyed), ("key_id", &rows.key_id)]),
        ("get_member_import", import("get")),
        ("list_member_import_failures", import("get")),
        ("start_member_import", import("start")),
        ("pause_member_import", import("pause")),
        ("resume_member_import", import("resume")),
        ("cancel_member_import", import("cancel")),
        ("create_issue_job", rule("issue")),
        ("list_issue_jobs", rule("issue")),
        ("get_issue_job", issue_job("get")),
        ("list_issue_job_failures", issue_job("get")),
        ("list_issue_job_codes", issue_job("get")),
        ("start_issue_job", issue_job("start")),
        ("pause_issue_job", issue_job("pause")),
        ("resume_issue_job", issue_job("resume")),
        ("cancel_issue_job", issue_job("cancel")),
        ("undo_issue_job", issue_job("undo")),
        ("get_coupon_import", coupon_import("get")),
        ("list_coupon_import_failures", coupon_import("get")),
        ("start_coupon_import", coupon_import("start")),
        ("pause_coupon_import", coupon_import("pause")),
        ("resume_coupon_import", coupon_import("resume")),
        ("cancel_coupon_import", coupon_import("cancel")),
        ("get_rule", rule("issue")),
        ("update_rule", rule("patch")),
        ("list_rule_versions", rule("patch")),
        ("claim_coupon", rule("claim")),
        ("issue_coupons", rule("issue")),
        ("pause_rule", rule("pause")),
        ("resume_rule", rule("resume")),
        ("end_rule", rule("end")),
        ("get_coupon", vec![("code", &rows.code)]),
        ("redeem_coupon", vec![("code", &rows.code)]),
        ("validate_coupon", coupon("validate")),
        ("lock_coupon", coupon("lock")),
        ("release_coupon", coupon("lock")),
        ("void_coupon", coupon("void")),
        ("bind_coupon", coupon("bind")),
        ("redeem_basket", Vec::new()),
        ("reverse_coupon", vec![("code", &rows.used)]),
        ("get_redemption", vec![("redemption_id", &rows.redemption)]),
        ("get_conflict", vec![("conflict_id", &rows.conflict)]),
        ("resolve_conflict", vec![("conflict_id", &rows.conflict)]),
        ("get_request", vec![("operation", "redeem"), ("number", &rows.number)]),
        ("get_problem", vec![("code", "coupon_not_found")]),
    ]
}

/// A body of each operation that is about the rows.
pub fn bodies(rows: &Rows) -> Vec<(&'static str, Value)> {
    let sale = json!({"store_id": "S0001", "order_ref": "S0001-2", "amount": 8000});
    vec![
        (
            "create_rule",
            json!({"name": "10 off 50", "discount": {"type": "amount_off", "amount": 1000}, "currency": "CNY",
                "threshold": 5000, "validity": {"days_after_issue": 30}, "stock": 10}),
        ),
        ("create_region", json!({"region_id": "NORTH", "name": "North China"})),
        ("update_region", json!({"name": "East China"})),
        ("put_register", json!({"name": "Ground floor"})),
        ("create_external_system", json!({"system": "erp", "name": "ERP", "id_shape": "number"})),
        ("update_external_system", json!({"name": "Sports club"})),
        ("create_store", json!({"store_id": "S0002", "name": "Nanjing Road", "region_id": "EAST"})),
        ("update_store", json!({"name": "Huaihai Road"})),
        ("register_member", json!({"phone": "+8613800000002", "email": "lin@example.cn"})),
        ("lookup_member", json!({"phone": "+8613800000001"})),
        ("update_member", json!({"nickname": "Linlin"})),
        ("reveal_member", json!({"fields": ["phone", "name"], "reason": "ticket 4711"})),
        ("get_wallet", json!({"amount": 8000, "currency": "CNY", "store_id": "S0001"})),
        ("get_members", json!({"member_ids": [rows.member, "1"]})),
        (
            "create_address",
            json!({"receiver": "Lin", "phone": "+8613800000001", "detail": "Nanjing Road 1, room 702",
                "coordinates": {"latitude": 31.23, "longitude": 121.47}}),
        ),
        ("update_address", json!({"label": "home"})),
        ("put_device", json!({"device_id": "8a6f1d0e", "os": "iOS 19.1"})),
        ("put_location", json!({"city": "Shanghai"})),
        ("put_profile", json!({"user_type": "merchant", "real_name": "Lin"})),
        ("update_profile", json!({"user_type": "consumer"})),
        ("change_tags", json!({"add": ["vip"], "remove": ["new"]})),
        ("add_key", json!({"username": "keyed"})),
        ("change_key", json!({"phone": "+8613800000006"})),
        ("verify_key", json!({"email": "keyed@example.cn", "proof": "email"})),
        ("transfer_key", json!({"card": "KEYED1", "proof": "document", "reason": "new_owner"})),
        ("issue_coupons", json!({"member_id": rows.member})),
        ("create_issue_job", json!({"count": 3})),
        (
            "create_legacy_code_shape",
            json!({"name": "loyalty-2015", "length_min": 20, "length_max": 20, "alphabet": "0123456789"}),
        ),
        ("update_rule", json!({"name": "10 off 60", "threshold": 6000, "stock": null})),
        ("claim_coupon", json!({"member_id": rows.member})),
        ("validate_coupon", json!({"store_id": "S0001", "amount": 8000})),
        ("lock_coupon", json!({"store_id": "S0001", "order_ref": "S0001-3", "ttl_secs": 60})),
        ("release_coupon", json!({"order_ref": "S0001-3"})),
        ("void_coupon", json!({"reason": "printed twice"})),
        ("bind_coupon", json!({"member_id": rows.member})),
        (
            "redeem_basket",
            json!({"store_id": "S0001", "order_ref": "S0001-4", "amount": 8000, "coupons": [{"code": rows.code}]}),
        ),
        ("redeem_coupon", sale),
        ("reverse_coupon", json!({"store_id": "S0001", "redemption_id": rows.redemption})),
        ("upload_offline", offline(&rows.code)),
        ("resolve_conflict", json!({"how": "store_bears", "note": "the till was cut off"})),
    ]
}

/// A CSV of each operation that takes one.
pub fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("import_regions", "region_id,name,parent_id\nWEST,West China,\n"),
        ("import_stores", "store_id,name,region_id\nS0004,Fourth,EAST\n"),
        ("create_member_import", "phone,name\n13800000003,Lin\n"),
        ("create_issue_job", "phone\n13800000003\n"),
        ("create_coupon_import", "code,rule_id,issued_on\n00000000000000000001,1,2026-11-22\n"),
    ]
}

/// The served document with examples that are about the rows.
fn with_examples(mut document: Value, rows: &Rows) -> Value {
    let bodies: BTreeMap<_, _> = bodies(rows).into_iter().collect();
    for operation in operations(&mut document) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        if let Some(body) = bodies.get(id.as_str()) {
            operation["requestBody"]["content"]["application/json"]["example"] = body.clone();
        }
        if let Some((_, text)) = files().into_iter().find(|(file, _)| *file == id) {
            operation["requestBody"]["content"]["text/csv"]["example"] = json!(text);
        }
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            match parameter["name"].as_str() {
                Some("If-Match") => parameter["example"] = json!("*"),
                Some("Idempotency-Key") => parameter["example"] = json!(fresh_number()),
                _ => {}
            }
        }
    }
    document
}

fn operations(document: &mut Value) -> impl Iterator<Item = &mut Value> {
    let paths = document["paths"].as_object_mut().unwrap();
    paths.values_mut().flat_map(|methods| methods.as_object_mut().unwrap().values_mut())
}

/// A CSV is sent as any text is.
const HOOKS: &str = "import schemathesis\nschemathesis.serializer.alias('text/csv', 'text/plain')\n";

/// What is expected, and from where.
fn config(rows: &Rows, key: &str) -> String {
    // 409, 412, 422 and 428 are decisions about well-formed requests: a document cannot say which coupon is spent. A
    // cursor is opaque; one that we did not give is 400.
    let mut text = format!(
        r#"seed = 20261122
hooks = "hooks.py"
[auth.openapi.api_key]
bearer = "{key}"
[generation]
database = "none"
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "412", "422", "428", "429"]
[checks.missing_required_header]
expected-statuses = ["400", "401", "403", "406", "415", "422", "428"]
"#
    );
    let cursors = [
        "list_stores",
        "list_regions",
        "list_external_systems",
        "list_member_imports",
        "list_coupon_imports",
        "list_legacy_code_shapes",
        "list_rules",
    ];
    // What a CSV must hold, a document cannot say.
    for operation in cursors.into_iter().chain(files().into_iter().map(|(operation, _)| operation)) {
        text.push_str(&format!("[[operations]]\ninclude-operation-id = \"{operation}\"\n"));
        text.push_str("[operations.checks.positive_data_acceptance]\n");
        text.push_str("expected-statuses = [\"2xx\", \"400\", \"409\", \"422\"]\n");
    }
    // Days of two months are well-formed, and more than a page reads.
    for operation in ["list_changes", "list_registrations", "list_audits", "list_conflicts", "get_totals"] {
        text.push_str(&format!("[[operations]]\ninclude-operation-id = \"{operation}\"\n"));
        text.push_str("[operations.checks.positive_data_acceptance]\n");
        text.push_str("expected-statuses = [\"2xx\", \"400\", \"404\"]\n");
    }
    // Ids that begin with a zero fit the pattern.
    text.push_str("[[operations]]\ninclude-operation-id = \"upload_offline\"\n");
    text.push_str("[operations.checks.positive_data_acceptance]\n");
    text.push_str("expected-statuses = [\"2xx\", \"400\", \"404\", \"422\"]\n");
    // An item of another shape is taken in, as a conflict.
    text.push_str("[operations.checks.negative_data_rejection]\n");
    text.push_str("expected-statuses = [\"200\", \"400\", \"401\", \"403\", \"404\", \"406\", \"413\", \"415\", \"422\", \"428\"]\n");
    for (operation, parts) in paths(rows) {
        text.push_str(&format!("[[operations]]\ninclude-operation-id = \"{operation}\"\n"));
        // A till's number may stand in the body or in the header, but one of them must; a cursor is opaque.
        if matches!(operation, "redeem_coupon" | "reverse_coupon" | "lock_coupon" | "redeem_basket" | "list_registers")
        {
            text.push_str("[operations.checks.positive_data_acceptance]\n");
            text.push_str("expected-statuses = [\"2xx\", \"400\", \"404\", \"409\", \"422\"]\n");
        }
        if matches!(
            operation,
            "list_member_coupons" | "list_rule_coupons" | "list_member_changes" | "list_rule_versions"
        ) {
            text.push_str("[operations.checks.positive_data_acceptance]\n");
            text.push_str("expected-statuses = [\"2xx\", \"400\", \"404\"]\n");
        }
        // What a line takes depends on the path, which a document cannot say of a body.
        if matches!(operation, "put_profile" | "update_profile") {
            text.push_str("[operations.checks.positive_data_acceptance]\n");
            text.push_str("expected-statuses = [\"2xx\", \"400\", \"412\", \"422\", \"428\"]\n");
        }
        if operation.ends_with("_failures") || operation == "list_issue_jobs" {
            text.push_str("[operations.checks.positive_data_acceptance]\n");
            text.push_str("expected-statuses = [\"2xx\", \"400\"]\n");
        }
        text.push_str("[operations.parameters]\n");
        for (name, value) in parts {
            text.push_str(&format!("\"path.{name}\" = \"{value}\"\n"));
        }
    }
    text
}

/// Method and path → answers of 2xx so far.
async fn served(api: &Client) -> BTreeMap<(String, String), u64> {
    let text = api.send(api.raw(reqwest::Method::GET, "/metrics")).await.expect(200).text;
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    text.lines()
        .filter(|line| line.starts_with("tessera_requests_total{") && line.contains("status=\"2xx\""))
        .map(|line| {
            let count = line.rsplit_once(' ').unwrap().1.parse().unwrap();
            ((label(line, "method"), label(line, "route")), count)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let program = schemathesis();
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let more = [
        ("TESSERA_BAD_CODES_PER_MINUTE", "0"),
        ("TESSERA_REVEALS_PER_MINUTE", "0"),
        ("TESSERA_BAD_KEYS_PER_MINUTE", "0"),
        ("TESSERA_REVEALS_PER_MINUTE", "0"),
        ("TESSERA_LOG", "error"),
    ];
    let server = Server::spawn(&db, &keys, &more).await;
    let api = &server.client;
    let rows = make_rows(api).await;
    let document = api.send(api.raw(reqwest::Method::GET, "/openapi.json")).await.expect(200).json;
    let mut document = with_examples(document, &rows);

    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("openapi.json"), document.to_string()).unwrap();
    std::fs::write(dir.path().join("schemathesis.toml"), config(&rows, &keys.admin)).unwrap();
    std::fs::write(dir.path().join("hooks.py"), HOOKS).unwrap();
    let before = served(api).await;
    let examples = scaled(30, 300).to_string();
    let output = Command::new(program)
        .args(["--config-file", "schemathesis.toml", "run", "openapi.json", "--url", &api.base, "--no-color"])
        // Paths are those of rows that were seeded: what a call makes is not what the next one asks for.
        .args(["--exclude-checks", "ensure_resource_availability"])
        .args(["--checks", "all", "--max-examples", &examples, "--continue-on-failure", "--warnings", "off"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    assert!(report.contains("No issues found"), "{report}");

    let after = served(api).await;
    let mut unreached = BTreeSet::new();
    for (path, methods) in document["paths"].as_object_mut().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let key = (method.to_uppercase(), path.clone());
            if after.get(&key) <= before.get(&key) {
                unreached.insert(key);
            }
        }
    }
    assert!(unreached.is_empty(), "no 2xx from {unreached:?}");
}
