//! Rules over HTTP: what they may say, what they must not, their versions, and a pause that holds on every node.

use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};
use tessera::event::tail::COHERENCE_BOUND;

use crate::support::{
    Pair, TestApp,
    server::{Client, Response, fresh_number, make_store},
};

fn plain() -> Value {
    json!({"name": "10 off 50", "discount": {"type": "amount_off", "amount": 1000}, "currency": "CNY",
        "validity": {"days_after_issue": 30}})
}

async fn create(api: &Client, body: &Value) -> Response {
    api.post("/v1/coupon-rules", &api.keys.marketing, body.clone()).await
}

async fn patch(api: &Client, rule: &str, seen: &str, body: Value) -> Response {
    let request = api.raw(Method::PATCH, &format!("/v1/coupon-rules/{rule}")).bearer_auth(&api.keys.marketing);
    api.send(request.header("if-match", seen).json(&body)).await
}

async fn go(api: &Client, rule: &str, to: &str) -> Response {
    api.send(api.raw(Method::POST, &format!("/v1/coupon-rules/{rule}/{to}")).bearer_auth(&api.keys.marketing)).await
}

/// A field, what is wrong with it, and the field that is blamed ("" when the body as a whole is malformed).
fn bad_fields() -> Vec<(&'static str, Value, &'static str)> {
    let most = 1_000_000_000_000_i64;
    let mut bad = vec![
        ("name", json!(""), "name"),
        ("name", json!("x".repeat(101)), "name"),
        ("name", json!(7), ""),
        ("threshold", json!(-1), "threshold"),
        ("threshold", json!(most + 1), "threshold"),
        ("threshold", json!(1.5), ""),
        ("per_member", json!(0), "per_member"),
        ("per_member", json!(1_000_001), "per_member"),
        ("uses", json!(0), "uses"),
        ("uses", json!(1001), "uses"),
        ("claimable", json!("yes"), ""),
        ("stores", json!({"in": []}), "stores.in"),
        ("stores", json!({"in": ["S0001"], "out": ["S0001"]}), "stores.out"),
        ("stores", json!({"only": ["S0001"]}), ""),
        ("stores", json!({"in": vec!["S0001"; 2001]}), "stores.in"),
        ("stores", json!({"in": ["S9999"]}), "stores.in"),
        ("regions", json!({"out": ["NOWHERE"]}), "regions.out"),
        ("validity", json!({}), ""),
        ("validity", json!({"days_after_issue": 30, "until": "2027-01-01T00:00:00Z"}), ""),
        ("validity", json!({"from": "2027-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z"}), "validity.until"),
        ("validity", json!({"until": "1999-12-31T23:59:59Z"}), "validity.until"),
        ("validity", json!({"until": "2090-01-01T00:00:00Z"}), "validity.until"),
        ("validity", json!({"from": "1999-01-01T00:00:00Z", "until": "2027-01-01T00:00:00Z"}), "validity.from"),
        ("discount", json!({"type": "two_for_one"}), ""),
        ("discount", json!({"type": "amount_off", "amount": 0}), "*"),
        ("discount", json!({"type": "amount_off", "amount": most + 1}), "*"),
        ("discount", json!({"type": "amount_off"}), ""),
        ("discount", json!({"type": "amount_off", "amount": 1, "cap": 1}), ""),
        ("discount", json!({"type": "percent_off", "basis_points": 0}), "*"),
        ("discount", json!({"type": "percent_off", "basis_points": 10_001}), "*"),
        ("discount", json!({"type": "percent_off", "basis_points": 1, "cap": 0}), "*"),
        ("discount", json!({"type": "fixed_price", "amount": -1}), "*"),
        ("discount", json!({"type": "gift", "amount": 1}), ""),
        ("discount", json!({"type": "gift", "sku": "", "amount": 1}), "*"),
        ("reverse", json!({"days": -1}), "*"),
        ("reverse", json!({"days": 3651}), "*"),
        ("reverse", json!({"cycles": 1001}), "*"),
    ];
    for field in ["stock", "stock_per_day", "stock_per_store", "budget", "budget_per_day", "budget_per_store"] {
        bad.extend([(field, json!(-1), field), (field, json!(most + 1), field), (field, json!("9"), "")]);
    }
    bad
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_has_bounds_and_is_blamed_by_name() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let standing = create(api, &plain()).await.expect(201);
    let (rule, seen) = (standing.json["rule_id"].as_str().unwrap(), standing.header("etag").unwrap());
    for (field, value, blamed) in bad_fields() {
        let mut body = plain();
        body[field] = value.clone();
        let change = json!({field: value});
        for answer in [create(api, &body).await, patch(api, rule, seen, change).await] {
            let what = format!("{field} = {:.80}: {}", value.to_string(), answer.text);
            match blamed {
                "" => assert_eq!((answer.status.as_u16(), answer.code()), (400, "malformed_body"), "{what}"),
                "*" => assert!(matches!(answer.code(), "invalid_field" | "malformed_body"), "{what}"),
                _ => {
                    let codes = ["invalid_field", "store_not_found", "region_not_found"];
                    assert!(codes.contains(&answer.code()), "{what}");
                    assert_eq!(answer.json["field"], json!(blamed), "{what}");
                }
            }
        }
    }
    // What does not go together, be it with what stays.
    for (part, whole) in [
        ("stock_per_day", "stock"),
        ("stock_per_store", "stock"),
        ("budget_per_day", "budget"),
        ("budget_per_store", "budget"),
    ] {
        let mut body = plain();
        (body[part], body[whole]) = (json!(11), json!(10));
        assert_eq!(create(api, &body).await.expect(422).json["field"], json!(part));
        body[part] = json!(10);
        let made = create(api, &body).await.expect(201);
        let (rule, seen) = (made.json["rule_id"].as_str().unwrap(), made.header("etag").unwrap());
        assert_eq!(patch(api, rule, seen, json!({whole: 9})).await.expect(422).json["field"], json!(part));
        patch(api, rule, seen, json!({whole: null})).await.expect(200);
    }
    for (field, value) in [("currency", json!("USD")), ("state", json!("active")), ("rule_id", json!("1"))] {
        assert_eq!(patch(api, rule, seen, json!({field: value})).await.expect(400).code(), "malformed_body");
    }
    for field in ["name", "discount", "threshold", "validity", "uses", "reverse", "claimable"] {
        assert_eq!(patch(api, rule, seen, json!({field: null})).await.expect(400).code(), "malformed_body", "{field}");
    }
    for currency in ["cny", "CN", "CNYX", "¥¥¥", ""] {
        let mut body = plain();
        body["currency"] = json!(currency);
        assert!(!create(api, &body).await.status.is_success(), "{currency}");
    }
    let kept = api.get(&format!("/v1/coupon-rules/{rule}"), &api.keys.marketing).await.expect(200);
    assert_eq!((kept.header("etag"), &kept.json["version"]), (Some(seen), &json!(1)), "nothing was changed");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_is_shown_as_it_was_said_and_keeps_its_versions() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    make_store(&mut app.db.sql().await, "S0002").await;
    let region = json!({"region_id": "EAST", "name": "East"});
    api.post("/v1/regions", &api.keys.ops, region).await.expect(201);
    let mut full = plain();
    let more = json!({"discount": {"type": "percent_off", "basis_points": 1250, "cap": 500}, "threshold": 5000,
        "stock": 100, "stock_per_day": 50, "stock_per_store": 20, "budget": 10_000, "budget_per_day": 5000,
        "budget_per_store": 2000, "per_member": 3, "uses": 2, "stores": {"in": ["S0001"], "out": ["S0002"]},
        "regions": {"in": ["EAST"]}, "reverse": {"days": 90, "cycles": 3}, "claimable": true});
    full.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = create(api, &full).await.expect(201);
    for (name, value) in full.as_object().unwrap() {
        assert_eq!(&made.json[name], value, "{name}");
    }
    assert_eq!(made.json["state"], json!("draft"));
    let rule = made.json["rule_id"].as_str().unwrap();
    let path = format!("/v1/coupon-rules/{rule}");
    assert_eq!(api.get(&path, &api.keys.pos).await.expect(200).json, made.json);

    assert_eq!(patch(api, rule, "\"99\"", json!({"threshold": 1})).await.expect(412).code(), "precondition_failed");
    let same = patch(api, rule, made.header("etag").unwrap(), json!({"threshold": 5000})).await.expect(200);
    assert_eq!(same.header("etag"), made.header("etag"), "a change of nothing is none");
    let changed = patch(api, rule, "*", json!({"threshold": 6000, "stores": null, "stock": null})).await.expect(200);
    assert_eq!((&changed.json["version"], &changed.json["stores"]), (&json!(2), &Value::Null));
    let list = async |query: &str| api.get(&format!("{path}/versions{query}"), &api.keys.ops).await.expect(200).json;
    let versions = list("").await;
    assert_eq!(versions["items"][0]["threshold"], json!(6000));
    assert_eq!((&versions["items"][1]["threshold"], &versions["items"][1]["stores"]), (&json!(5000), &full["stores"]));
    let page = list("?limit=1").await;
    let next = list(&format!("?limit=1&cursor={}", page["next_cursor"].as_str().unwrap())).await;
    assert_eq!((&next["items"][0]["version"], &next["next_cursor"]), (&json!(1), &Value::Null));

    // Lists by state, newest first, in pages.
    let draft = create(api, &plain()).await.expect(201);
    go(api, rule, "resume").await.expect(200);
    let rules = async |query: &str| {
        let page = api.get(&format!("/v1/coupon-rules{query}"), &api.keys.ops).await.expect(200).json;
        let ids: Vec<Value> = page["items"].as_array().unwrap().iter().map(|one| one["rule_id"].clone()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(rules("?state=draft").await.0, [draft.json["rule_id"].clone()]);
    assert_eq!(rules("?state=active").await.0, [json!(rule)]);
    let (first, cursor) = rules("?limit=1").await;
    let (second, end) = rules(&format!("?limit=1&cursor={}", cursor.unwrap())).await;
    assert_eq!((first, second, end), (vec![draft.json["rule_id"].clone()], vec![json!(rule)], None));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drafts_are_not_issued_and_an_ended_rule_stays_ended() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let made = create(api, &plain()).await.expect(201);
    let rule = made.json["rule_id"].as_str().unwrap();
    let issue = async || {
        let path = format!("/v1/coupon-rules/{rule}/coupons");
        api.post_numbered(&path, &keys.marketing, &fresh_number(), json!({"count": 1})).await
    };
    let refused = issue().await.expect(422);
    assert_eq!((refused.code(), &refused.json["rule_state"]), ("rule_not_active", &json!("draft")));
    assert_eq!(go(api, rule, "pause").await.expect(409).code(), "rule_state_forbidden");
    go(api, rule, "resume").await.expect(200);
    let issued = issue().await.expect(201);
    let code = issued.json["coupons"][0]["code"].as_str().unwrap();
    go(api, rule, "pause").await.expect(200);
    assert_eq!(issue().await.expect(422).json["rule_state"], json!("paused"));
    assert_eq!(api.redeem(code).await.expect(422).code(), "rule_not_active");
    // A paused rule may be changed; what was issued before is returned all the same.
    patch(api, rule, "*", json!({"threshold": 1})).await.expect(200);
    go(api, rule, "resume").await.expect(200);
    let used = api.redeem(code).await.expect(200);
    go(api, rule, "pause").await.expect(200);
    let undo = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    api.post_numbered(&format!("/v1/coupons/{code}/reverse"), &keys.pos, &fresh_number(), undo).await.expect(200);
    go(api, rule, "end").await.expect(200);
    go(api, rule, "end").await.expect(200);
    for to in ["resume", "pause"] {
        assert_eq!(go(api, rule, to).await.expect(409).code(), "rule_state_forbidden");
    }
    assert_eq!(patch(api, rule, "*", json!({"threshold": 2})).await.expect(409).code(), "rule_state_forbidden");
    assert_eq!(issue().await.expect(422).json["rule_state"], json!("ended"));
    api.redeem(code).await.expect(200);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issued_coupon_keeps_the_meaning_of_its_version_on_every_node() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    let rule = a.rule(json!({"uses": 2, "stores": {"in": ["S0001"]}})).await;
    let old = &a.issue(&rule, json!({"count": 1})).await[0];
    b.redeem(old).await.expect(200);
    let change = json!({"discount": {"type": "percent_off", "basis_points": 1000}, "threshold": 9000, "uses": 1,
        "stores": {"out": ["S0001"]}, "validity": {"days_after_issue": 0}});
    patch(a, &rule, "*", change).await.expect(200);
    let new = &a.issue(&rule, json!({"count": 1})).await[0];
    for client in [a, b] {
        let seen = client.get(&format!("/v1/coupons/{old}"), &client.keys.pos).await.expect(200).json;
        assert_eq!(seen["rule_version"], json!(1));
        assert_eq!(client.redeem(new).await.expect(422).code(), "coupon_not_for_store");
    }
    let used = b.redeem(old).await.expect(200).json;
    assert_eq!((&used["discount"], &used["uses"], &used["uses_max"]), (&json!(1000), &json!(2), &json!(2)));
    let until = |code: &str| format!("/v1/coupons/{code}");
    let (old, new) = (b.get(&until(old), &b.keys.pos).await.json, b.get(&until(new), &b.keys.pos).await.json);
    assert!(old["valid_until"].as_str() > new["valid_until"].as_str());
    // Limits are the rule's, whatever version a coupon is of.
    let limited = a.rule(json!({"budget": 1000})).await;
    let codes = a.issue(&limited, json!({"count": 2})).await;
    patch(a, &limited, "*", json!({"budget": 500})).await.expect(200);
    let refused = a.redeem(&codes[0]).await.expect(409);
    assert_eq!(
        (refused.code(), &refused.json["left"], &refused.json["scope"]),
        ("budget_exhausted", &json!(500), &json!("total"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_on_every_node_within_its_bound_for_whatever_is_done() {
    let pair = Pair::spawn(&[]).await;
    let [a, b] = pair.clients();
    let rule = a.rule(json!({"uses": 1000, "claimable": true})).await;
    let member = a.member("+8613800000001").await;
    let codes = a.issue(&rule, json!({"count": 3})).await;
    let acts: [(String, Value); 5] = [
        (format!("/v1/coupons/{}/redeem", codes[0]), json!({"store_id": "S0001", "order_ref": "o", "amount": 8000})),
        (format!("/v1/coupons/{}/lock", codes[1]), json!({"store_id": "S0001", "order_ref": "o"})),
        (format!("/v1/coupon-rules/{rule}/coupons"), json!({"count": 1})),
        (format!("/v1/coupon-rules/{rule}/claim"), json!({"member_id": member})),
        (
            "/v1/redemptions".to_owned(),
            json!({"store_id": "S0001", "order_ref": "o", "amount": 8000, "coupons": [{"code": codes[2]}]}),
        ),
    ];
    let act = async |client: &Client, number: usize| {
        let (path, body) = &acts[number];
        client.post_numbered(path, &client.keys.admin, &fresh_number(), body.clone()).await
    };
    for number in 0..acts.len() {
        let answer = act(b, number).await;
        assert!(answer.status.is_success(), "{}", answer.text);
    }
    let validate = format!("/v1/coupons/{}/validate", codes[0]);
    let sale = json!({"store_id": "S0001", "amount": 8000});
    for (to, holds) in [("pause", true), ("resume", false)] {
        go(a, &rule, to).await.expect(200);
        let told = Instant::now();
        for number in (0..acts.len()).cycle() {
            let asked = told.elapsed();
            let answer = act(b, number).await;
            let is_old = answer.status.is_success() == holds;
            assert!(answer.status.is_success() || answer.code() == "rule_not_active", "{}", answer.text);
            assert!(!is_old || asked <= COHERENCE_BOUND, "{to}: an old answer {asked:?} after it: {}", answer.text);
            if asked > COHERENCE_BOUND && number + 1 == acts.len() {
                break;
            }
        }
        for client in [a, b] {
            let asked = client.post(&validate, &client.keys.pos, sale.clone()).await.expect(200);
            assert_eq!(asked.json["why"], if holds { json!("rule_not_active") } else { Value::Null });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_name_as_many_stores_as_it_may_and_end_with_a_leap_second() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let ids = |from: usize| -> Vec<String> { (from..from + 2_000).map(|n| format!("{n:0>32}")).collect() };
    let mut body = plain();
    body["stores"] = json!({"in": ids(0), "out": ids(2_000)});
    body["regions"] = json!({"in": ids(0), "out": ids(2_000)});
    assert_eq!(create(api, &body).await.expect(404).code(), "store_not_found");
    let mut body = plain();
    body["validity"] = json!({"from": "2026-06-30T23:59:60Z", "until": "2030-06-30T23:59:60.5Z"});
    let made = create(api, &body).await.expect(201);
    let validity = json!({"from": "2026-07-01T00:00:00Z", "until": "2030-07-01T00:00:00.500Z"});
    assert_eq!(made.json["validity"], validity, "{}", made.text);
    let path = made.header("location").unwrap();
    assert_eq!(api.get(path, &api.keys.marketing).await.expect(200).json["validity"], validity);
    app.stop().await;
}
