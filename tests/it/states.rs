//! What a member's state and kind allow, over HTTP: the main rows of the table in `member::state`.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    TestApp,
    server::{Client, Response, fresh_number},
};

/// A member in a state and of a kind, with a coupon that is free, one that is used, and the use.
struct Case {
    member: String,
    free: String,
    used: String,
    redemption: Value,
}

async fn patch(api: &Client, member: &str, change: Value) -> Response {
    let request = api.raw(Method::PATCH, &format!("/v1/members/{member}")).bearer_auth(&api.keys.ops);
    api.send(request.header("if-match", "*").json(&change)).await
}

async fn case(api: &Client, rule: &str, n: usize, change: Value) -> Case {
    let body = json!({"external": [format!("sport:{n}"), format!("crm:{n}")]});
    let made = api.post("/v1/members", &api.keys.pos, body).await.expect(201);
    let member = made.json["member_id"].as_str().unwrap().to_owned();
    let mut codes = api.issue(rule, json!({"member_id": member, "count": 2})).await;
    let (used, free) = (codes.remove(0), codes.remove(0));
    let redemption = api.redeem(&used).await.expect(200).json["redemption_id"].clone();
    patch(api, &member, change).await.expect(200);
    Case { member, free, used, redemption }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_state_and_kind_allows_what_the_table_says() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({"stock": 1000})).await;
    // What is tried, in this order, with the code that it gets.
    let rows: &[(Value, [&str; 10])] = &[
        (json!({"state": "normal"}), [""; 10]),
        (
            json!({"state": "frozen"}),
            ["", "", "", "", "member_frozen", "member_frozen", "member_frozen", "member_frozen", "", ""],
        ),
        (
            json!({"state": "cancelled"}),
            [
                "",
                "",
                "member_cancelled",
                "member_cancelled",
                "member_cancelled",
                "member_cancelled",
                "member_cancelled",
                "member_cancelled",
                "",
                "",
            ],
        ),
        (json!({"muted": true}), ["", "", "", "member_muted", "", "", "", "", "", ""]),
        (json!({"kind": "virtual"}), ["", "", "member_kind_forbidden", "", "", "", "", "", "", ""]),
        (
            json!({"kind": "operations"}),
            ["", "", "", "", "", "", "member_kind_forbidden", "member_kind_forbidden", "", ""],
        ),
    ];
    for (n, (change, codes)) in rows.iter().enumerate() {
        let Case { member, free, used, redemption } = case(api, &rule, n, change.clone()).await;
        let path = format!("/v1/members/{member}");
        let keys = format!("{path}/keys");
        let key_id = {
            let listed = api.get(&keys, &api.keys.ops).await.expect(200);
            listed.json["items"][0]["key_id"].as_str().unwrap().to_owned()
        };
        let issue = format!("/v1/coupon-rules/{rule}/coupons");
        let reverse = format!("/v1/coupons/{used}/reverse");
        let undo = json!({"store_id": "S0001", "redemption_id": redemption});
        let lookup = json!({"external": format!("sport:{n}")});
        let delete = api.raw(Method::DELETE, &format!("{keys}/{key_id}")).bearer_auth(&api.keys.ops);
        let got = [
            api.post("/v1/members/lookup", &api.keys.pos, lookup).await,
            api.get(&path, &api.keys.pos).await,
            patch(api, &member, json!({"name": "Lin"})).await,
            patch(api, &member, json!({"nickname": "Linlin"})).await,
            api.post(&keys, &api.keys.ops, json!({"username": format!("user{n}")})).await,
            api.send(delete).await,
            api.post_numbered(&issue, &api.keys.marketing, &fresh_number(), json!({"member_id": member})).await,
            api.redeem(&free).await,
            api.post_numbered(&reverse, &api.keys.pos, &fresh_number(), undo).await,
            api.post(&format!("{path}/export"), &api.keys.ops, json!({})).await,
        ];
        let got: Vec<&str> = got.iter().map(Response::code).collect();
        assert_eq!(got, codes, "{change}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_is_given_by_operators_and_written_down() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let member = api.member("+8613800000001").await;
    let path = format!("/v1/members/{member}");
    for change in [json!({"state": "frozen"}), json!({"kind": "virtual"}), json!({"muted": true})] {
        let by_till = api.raw(Method::PATCH, &path).bearer_auth(&api.keys.pos).header("if-match", "*").json(&change);
        assert_eq!(api.send(by_till).await.expect(403).code(), "role_forbidden");
    }
    for (change, code, state) in [
        (json!({"state": "frozen"}), "", "frozen"),
        (json!({"state": "cancelled"}), "", "cancelled"),
        (json!({"state": "cancelled"}), "", "cancelled"),
        (json!({"state": "frozen"}), "member_state_forbidden", "cancelled"),
        (json!({"state": "normal", "name": "Lin"}), "member_cancelled", "cancelled"),
        (json!({"state": "normal"}), "", "normal"),
        // It has a phone, and a virtual member stands for nobody.
        (json!({"kind": "virtual"}), "member_kind_forbidden", "normal"),
        (json!({"kind": "operations", "muted": true}), "", "normal"),
    ] {
        let answer = patch(api, &member, change.clone()).await;
        assert_eq!(answer.code(), code, "{change} {}", answer.text);
        let now = api.get(&path, &api.keys.pos).await.expect(200);
        assert_eq!(now.json["state"], json!(state), "{change}");
    }
    let now = api.get(&path, &api.keys.pos).await.expect(200);
    assert_eq!((&now.json["kind"], &now.json["muted"]), (&json!("operations"), &json!(true)));
    // A cancelled member keeps its phone: nobody takes its name while it may come back.
    patch(api, &member, json!({"state": "cancelled"})).await.expect(200);
    let refused = api.post("/v1/members", &api.keys.pos, json!({"phone": "+8613800000001"})).await;
    assert_eq!(refused.expect(409).code(), "member_key_taken");
    assert_eq!(app.db.count("select count(*) from change_log where what = 2").await, 6);
    // A stale version is refused before anything else.
    let stale = api.raw(Method::PATCH, &path).bearer_auth(&api.keys.ops).header("if-match", "\"v1\"");
    let stale = api.send(stale.json(&json!({"state": "frozen"}))).await;
    assert_eq!(stale.expect(412).code(), "precondition_failed");
    // A virtual member has neither phone nor e-mail, and may be without a name at all.
    let made = api.post("/v1/members", &api.keys.pos, json!({"card": "GUEST1"})).await.expect(201);
    let guest = made.json["member_id"].as_str().unwrap().to_owned();
    patch(api, &guest, json!({"kind": "virtual"})).await.expect(200);
    let keys = format!("/v1/members/{guest}/keys");
    let refused = api.post(&keys, &api.keys.ops, json!({"phone": "+8613800000009"})).await;
    assert_eq!(refused.expect(422).code(), "member_kind_forbidden");
    let put = |method: Method, rest: &str, body: Value| {
        let request = api.raw(method, &format!("/v1/members/{guest}/{rest}")).bearer_auth(&api.keys.ops);
        api.send(request.json(&body))
    };
    for (method, rest, body) in [
        (Method::POST, "addresses", json!({"receiver": "Lin", "detail": "Nanjing Road 1"})),
        (Method::PUT, "devices", json!({"device_id": "d"})),
        (Method::PUT, "location", json!({"city": "Wuhan"})),
        (Method::PUT, "profiles/mall", json!({"real_name": "Lin"})),
        (Method::PUT, "profiles/mall", json!({"id_card": "11010519491231002X"})),
    ] {
        let refused = put(method, rest, body).await;
        assert_eq!(refused.expect(422).code(), "member_kind_forbidden", "{rest}");
    }
    put(Method::PUT, "profiles/mall", json!({"user_type": "merchant"})).await.expect(201);
    put(Method::PUT, "profiles/sport", json!({"school": "No. 2"})).await.expect(201);
    let card = api.get(&keys, &api.keys.ops).await.expect(200).json["items"][0]["key_id"].clone();
    let release = api.raw(Method::DELETE, &format!("{keys}/{}", card.as_str().unwrap())).bearer_auth(&api.keys.ops);
    api.send(release).await.expect(204);
    app.stop().await;
}
