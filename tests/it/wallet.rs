//! What a till learns of a member's coupons, in one call.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{TestApp, scaled, server::Response};

fn codes(answer: &Response) -> Vec<String> {
    let items = answer.json["items"].as_array().unwrap();
    items.iter().map(|item| item["code"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_shows_what_applies_best_first_and_what_the_rest_lacks() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let rule = async |name: &str, off: i64, threshold: i64, more: Value| {
        let mut body = json!({"name": name, "discount": {"type": "amount_off", "amount": off}, "threshold": threshold});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.rule(body).await
    };
    let future = json!({"validity": {"from": "2080-01-01T00:00:00Z", "until": "2081-01-01T00:00:00Z"}});
    let rules = [
        ("small", rule("small", 500, 1000, json!({})).await),
        ("large", rule("large", 2000, 8000, json!({})).await),
        ("too much", rule("too much", 9000, 9200, json!({})).await),
        ("far too much", rule("far too much", 9000, 20000, json!({})).await),
        ("dollars", rule("dollars", 500, 0, json!({"currency": "USD"})).await),
        ("later", rule("later", 500, 0, future).await),
        ("paused", rule("paused", 500, 0, json!({})).await),
        ("spent", rule("spent", 500, 0, json!({})).await),
    ];
    for (name, rule) in &rules {
        let issued = api.issue(rule, json!({"member_id": member})).await;
        if *name == "spent" {
            api.redeem(&issued[0]).await.expect(200);
        }
        if *name == "paused" {
            let pause = api.raw(reqwest::Method::POST, &format!("/v1/coupon-rules/{rule}/pause"));
            api.send(pause.bearer_auth(&keys.ops)).await.expect(200);
        }
    }
    let path = format!("/v1/members/{member}/wallet");
    let basket = json!({"amount": 8000, "currency": "CNY", "store_id": "S0001"});
    let wallet = api.post(&path, &keys.pos, basket).await.expect(200);
    let shown: Vec<Value> = wallet.json["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| json!([item["name"], item["applies"], item["saves"], item["why"], item["missing"]]))
        .collect();
    assert_eq!(shown[..2], [json!(["large", true, 2000, null, null]), json!(["small", true, 500, null, null])],);
    let rest: BTreeSet<String> = shown[2..].iter().map(ToString::to_string).collect();
    let expected = [
        json!(["too much", false, null, "coupon_below_threshold", 1200]),
        json!(["far too much", false, null, "coupon_below_threshold", 12000]),
        json!(["dollars", false, null, "coupon_currency_mismatch", null]),
        json!(["later", false, null, "coupon_not_yet_valid", null]),
        json!(["paused", false, null, "rule_not_active", null]),
    ];
    assert_eq!(rest, expected.iter().map(ToString::to_string).collect());
    assert_eq!(wallet.json["more"], false);
    // What it says is what redeeming says.
    for item in wallet.json["items"].as_array().unwrap() {
        let body = json!({"store_id": "S0001", "order_ref": "S0001-1", "amount": 8000, "currency": "CNY"});
        let path = format!("/v1/coupons/{}/redeem", item["code"].as_str().unwrap());
        let number = crate::support::server::fresh_number();
        let redeemed = api.post_numbered(&path, &keys.pos, &number, body).await;
        assert_eq!(redeemed.code(), item["why"].as_str().unwrap_or(""), "{}", item["name"]);
        assert_eq!(redeemed.json["discount"], item["saves"], "{}", item["name"]);
    }
    // A frozen member has them still, and may use none.
    let patch = api.raw(reqwest::Method::PATCH, &format!("/v1/members/{member}")).bearer_auth(&keys.ops);
    api.send(patch.header("if-match", "*").json(&json!({"state": "frozen"}))).await.expect(200);
    let wallet = api.post(&path, &keys.pos, json!({})).await.expect(200);
    let items = wallet.json["items"].as_array().unwrap();
    assert!(!items.is_empty() && items.iter().all(|item| item["why"] == "member_frozen"), "{}", wallet.text);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_gives_member_and_usable_coupons_in_one_call() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({})).await;
    let issued = api.issue(&rule, json!({"member_id": member, "count": 3})).await;
    api.redeem(&issued[0]).await.expect(200);
    let body = json!({"phone": "138 0000 0001"});
    let path = "/v1/members/lookup?coupons=usable";
    let found = api.post(path, &keys.pos, body.clone()).await.expect(200);
    let plain = api.post("/v1/members/lookup", &keys.pos, body.clone()).await.expect(200);
    let mut member_only = found.json.clone();
    let coupons = member_only.as_object_mut().unwrap().remove("coupons").unwrap();
    assert_eq!(member_only, plain.json, "the member is shown as ever");
    assert!(plain.header("etag").is_some() && found.header("etag").is_none(), "a version does not count coupons");
    let shown: BTreeSet<&str> =
        coupons["items"].as_array().unwrap().iter().map(|item| item["code"].as_str().unwrap()).collect();
    assert_eq!(shown, issued[1..].iter().map(String::as_str).collect());
    let forbidden = api.post(path, &keys.marketing, body.clone()).await.expect(403);
    assert_eq!(forbidden.code(), "role_forbidden");
    api.post("/v1/members/lookup?coupons=all", &keys.pos, body).await.expect(400);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_members_coupons_has_no_ceiling_and_stands_still_while_they_change() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({"stock": 100_000})).await;
    let mut issued = Vec::new();
    for _ in 0..scaled(3, 30) {
        issued.extend(api.issue(&rule, json!({"member_id": member, "count": 100})).await);
    }
    let list = async |filter: &str, cursor: Option<&str>| {
        let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        api.get(&format!("/v1/members/{member}/coupons?limit=40{filter}{cursor}"), &keys.pos).await
    };
    let mut seen = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page = list("", cursor.as_deref()).await.expect(200);
        seen.extend(codes(&page));
        // Used and issued meanwhile: of what was there none is lost and none comes twice.
        api.redeem(&issued[seen.len() % issued.len()]).await;
        api.issue(&rule, json!({"member_id": member})).await;
        match page.json["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let unique: BTreeSet<&String> = seen.iter().collect();
    assert_eq!(unique.len(), seen.len(), "a coupon came twice");
    assert!(issued.iter().all(|code| unique.contains(code)), "a coupon was lost");
    let used = list("&state=redeemed", None).await.expect(200);
    let counted = app.db.count("select count(*) from coupon where state = 2").await;
    assert_eq!(codes(&used).len() as i64, counted.min(40));
    assert!(used.json["items"].as_array().unwrap().iter().all(|item| item["state"] == "redeemed"));
    assert_eq!(codes(&list("&state=void", None).await.expect(200)).len(), 0);
    let refused = list("&state=issued", cursor.as_deref()).await.expect(400);
    assert_eq!(refused.code(), "malformed_query", "the cursor belongs to another filter");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_very_many_coupons_looks_at_so_many_and_goes_on() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let rule = api.rule(json!({})).await;
    let oldest = api.issue(&rule, json!({"member_id": member})).await.remove(0);
    let oldest_id = app.db.count("select max(code_id) from coupon").await;
    // Void ones of later numbers, which the member's wallet has to walk over.
    let fill = format!(
        "insert into coupon_receive (member_id, code_id, rule_id, valid_until, state)
         select {member}, (({oldest_id} >> 41) + 1 << 41) + n, {rule}, now() + interval '9 days', 3
         from generate_series(1, 4500) n"
    );
    sqlx::Executor::execute(&mut app.db.sql().await, sqlx::AssertSqlSafe(fill)).await.unwrap();
    let path = format!("/v1/members/{member}/coupons?state=issued");
    let (mut pages, mut found, mut next) = (0, Vec::new(), String::new());
    loop {
        let page = api.get(&format!("{path}{next}"), &keys.pos).await.expect(200);
        found.extend(codes(&page));
        pages += 1;
        match page.json["next_cursor"].as_str() {
            Some(cursor) => next = format!("&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!((pages, found), (3, vec![oldest]));
    let wallet = api.post(&format!("/v1/members/{member}/wallet"), &keys.pos, json!({})).await.expect(200);
    assert_eq!((codes(&wallet).len(), &wallet.json["more"]), (0, &json!(true)), "it says that it has not seen all");
    app.stop().await;
}
