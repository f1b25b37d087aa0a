//! The life of single coupons over HTTP: each endpoint, its answer, the same number again, and what is seen afterwards.

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tessera::chain::key::Role;

use crate::support::{
    TestApp, scaled,
    server::{Client, Response, fresh_number, make_key, make_store},
};

/// Sends it twice under one number, and once more with another body: the second answer is the first, the third is refused.
async fn once(api: &Client, path: &str, key: &str, body: Value, status: u16) -> Response {
    let number = fresh_number();
    let first = api.post_numbered(path, key, &number, body.clone()).await.expect(status);
    let again = api.post_numbered(path, key, &number, body.clone()).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text), "{path}");
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{path}");
    let mut other = body;
    for field in ["order_ref", "reason", "member_id", "amount"] {
        if let Some(value) = other.get_mut(field) {
            *value = if field == "amount" { json!(value.as_i64().unwrap() + 1) } else { json!("4711") };
            break;
        }
    }
    let reused = api.post_numbered(path, key, &number, other).await;
    assert_eq!((reused.status.as_u16(), reused.code()), (409, "request_number_reused"), "{path}");
    first
}

async fn seen(api: &Client, code: &str) -> Value {
    api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await.expect(200).json
}

fn path(code: &str, what: &str) -> String {
    format!("/v1/coupons/{code}/{what}")
}

fn sale(order: &str) -> Value {
    json!({"store_id": "S0001", "order_ref": order, "amount": 8000})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_locked_released_redeemed_and_returned_line_by_line() {
    let app = TestApp::spawn().await;
    let (api, pos) = (&app.client, &app.client.keys.pos);
    let rule = api.rule(json!({"threshold": 0})).await;
    let code = &api.issue(&rule, json!({"count": 1})).await[0];
    let hold = json!({"store_id": "S0001", "order_ref": "o-1", "ttl_secs": 60});
    let held = once(api, &path(code, "lock"), pos, hold.clone(), 200).await;
    assert_eq!((&held.json["state"], &held.json["lock"]["order_ref"]), (&json!("locked"), &json!("o-1")));
    // Which order holds it is told to operators: a till that knew could release the lock, and redeem under it.
    let shown = seen(api, code).await;
    assert_eq!((&shown["state"], &shown["lock"]), (&json!("locked"), &json!({"until": held.json["lock"]["until"]})));
    let shown = api.get(&format!("/v1/coupons/{code}"), &api.keys.ops).await.expect(200).json;
    assert_eq!(shown["lock"], held.json["lock"]);
    let other = api.post_numbered(&path(code, "redeem"), pos, &fresh_number(), sale("o-2")).await.expect(409);
    assert_eq!((other.code(), &other.json["locked_until"]), ("coupon_locked", &held.json["lock"]["until"]));
    let wrong = api.post_numbered(&path(code, "release"), pos, &fresh_number(), json!({"order_ref": "o-2"})).await;
    assert_eq!(wrong.expect(409).code(), "coupon_locked");
    // Only an operator lets go whoever holds it.
    let any = api.post_numbered(&path(code, "release"), pos, &fresh_number(), json!({})).await.expect(403);
    assert_eq!(any.code(), "role_forbidden");
    let free = api.post_numbered(&path(code, "release"), &api.keys.ops, &fresh_number(), json!({})).await.expect(200);
    assert_eq!((&free.json["state"], &free.json["lock"]), (&json!("issued"), &Value::Null));
    api.post_numbered(&path(code, "lock"), pos, &fresh_number(), hold).await.expect(200);
    let events = app.db.count("select count(*) from event where kind = 14").await;
    once(api, &path(code, "release"), pos, json!({"order_ref": "o-1"}), 200).await;
    once(api, &path(code, "release"), pos, json!({"order_ref": "o-1"}), 200).await;
    assert_eq!(
        app.db.count("select count(*) from event where kind = 14").await,
        events + 1,
        "nothing was let go twice"
    );

    let mut sold = sale("o-1");
    sold["lines"] = json!([{"line": "1", "amount": 5000}, {"line": "2", "amount": 2999}, {"line": "3", "amount": 1}]);
    let used = once(api, &path(code, "redeem"), pos, sold.clone(), 200).await.json;
    assert_eq!(
        used["lines"].as_array().unwrap().iter().map(|line| line["discount"].as_i64().unwrap()).sum::<i64>(),
        1000
    );
    let undo = |lines: Value| json!({"store_id": "S0001", "redemption_id": used["redemption_id"], "lines": lines});
    let part = once_reversed(api, code, undo(json!(["2"]))).await;
    assert_eq!((&part["whole"], &part["returned"], &part["state"]), (&json!(false), &json!(2999), &json!("redeemed")));
    let id = used["redemption_id"].as_str().unwrap();
    let row = api.get(&format!("/v1/redemptions/{id}"), pos).await.expect(200).json;
    assert_eq!(
        (&row["returned"], &row["reversed"], &row["reversed_whole"]),
        (&json!(2999), &part["discount"], &json!(false))
    );
    assert_eq!((&row["lines"][1]["returned"], &row["lines"][0]["returned"]), (&json!(true), &Value::Null));
    for (lines, refused) in [(json!(["2"]), "redemption_line_reversed"), (json!(["9"]), "redemption_line_unknown")] {
        let answer = api.post_numbered(&path(code, "reverse"), pos, &fresh_number(), undo(lines)).await;
        assert_eq!(answer.code(), refused);
    }
    let rest = once_reversed(api, code, undo(json!(["3", "1"]))).await;
    assert_eq!((&rest["whole"], &rest["returned"], &rest["state"]), (&json!(true), &json!(8000), &json!("issued")));
    assert_eq!(part["discount"].as_i64().unwrap() + rest["discount"].as_i64().unwrap(), 1000);
    let undone =
        api.get(&format!("/v1/redemptions/{}", rest["redemption_id"].as_str().unwrap()), pos).await.expect(200);
    assert_eq!((&undone.json["reverses"], undone.json["lines"].as_array().unwrap().len()), (&json!(id), 2));
    let shown = seen(api, code).await;
    assert_eq!((&shown["cycles"], &shown["uses"], &shown["redemption_id"]), (&json!(1), &json!(0), &Value::Null));
    crate::races::assert_clean(&app.db).await;
    app.stop().await;
}

async fn once_reversed(api: &Client, code: &str, body: Value) -> Value {
    let number = fresh_number();
    let first = api.post_numbered(&path(code, "reverse"), &api.keys.pos, &number, body.clone()).await.expect(200);
    let again = api.post_numbered(&path(code, "reverse"), &api.keys.pos, &number, body).await;
    assert_eq!((&again.text, again.header("idempotency-replayed")), (&first.text, Some("true")));
    first.json
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coupon_is_claimed_bound_and_made_void() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = api.member("+8613800000001").await;
    let open = api.rule(json!({"claimable": true, "per_member": 2, "stock": 3})).await;
    let claim = format!("/v1/coupon-rules/{open}/claim");
    let claimed = once(api, &claim, &keys.pos, json!({"member_id": member}), 201).await;
    let first = claimed.json["coupons"][0]["code"].as_str().unwrap();
    assert_eq!(claimed.json["coupons"][0]["member_id"], json!(member));
    let anonymous = &api.issue(&open, json!({"count": 1})).await[0];
    once(api, &path(anonymous, "bind"), &keys.pos, json!({"member_id": member}), 200).await;
    // The holder again changes nothing; a third is one too many, and another's is another's.
    let bind = async |code: &str, member: &str| {
        api.post_numbered(&path(code, "bind"), &keys.pos, &fresh_number(), json!({"member_id": member})).await
    };
    bind(anonymous, &member).await.expect(200);
    let other = api.member("+8613800000002").await;
    assert_eq!(bind(anonymous, &other).await.expect(409).code(), "coupon_held");
    let full = api.post_numbered(&claim, &keys.pos, &fresh_number(), json!({"member_id": member})).await.expect(409);
    assert_eq!((full.code(), &full.json["taken"]), ("member_limit_reached", &json!(2)));
    let listed = api.get(&format!("/v1/members/{member}/coupons"), &keys.pos).await.expect(200).json;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);

    let voided = once(api, &path(first, "void"), &keys.ops, json!({"reason": "printed twice"}), 200).await;
    assert_eq!(voided.json["state"], json!("void"));
    let shown = seen(api, first).await;
    assert_eq!((&shown["state"], &shown["void_reason"]), (&json!("void"), &json!("printed twice")));
    for (what, body) in [("redeem", sale("o")), ("lock", json!({"store_id": "S0001", "order_ref": "o"}))] {
        let answer = api.post_numbered(&path(first, what), &keys.pos, &fresh_number(), body).await.expect(409);
        assert_eq!(answer.code(), "coupon_void");
    }
    // There is room again, in the stock and for the member; a used one is reversed first.
    let again = api.post_numbered(&claim, &keys.pos, &fresh_number(), json!({"member_id": member})).await.expect(201);
    let code = again.json["coupons"][0]["code"].as_str().unwrap();
    api.redeem(code).await.expect(200);
    let used = api.post_numbered(&path(code, "void"), &keys.ops, &fresh_number(), json!({"reason": "x"})).await;
    assert_eq!((used.code(), used.json["store_id"].as_str()), ("coupon_already_redeemed", Some("S0001")));
    let closed = api.rule(json!({})).await;
    let claim = format!("/v1/coupon-rules/{closed}/claim");
    let refused = api.post_numbered(&claim, &keys.pos, &fresh_number(), json!({"member_id": member})).await;
    assert_eq!(refused.expect(422).code(), "rule_not_claimable");
    crate::races::assert_clean(&app.db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basket_is_redeemed_whole_and_each_use_is_returned_by_itself() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let fixed = json!({"discount": {"type": "fixed_price", "amount": 990}, "threshold": 0});
    let percent = json!({"discount": {"type": "percent_off", "basis_points": 1000, "cap": 300}});
    let gift = json!({"discount": {"type": "gift", "sku": "6901", "amount": 500}, "threshold": 0});
    let mut codes = Vec::new();
    for more in [fixed, percent, gift] {
        codes.push(api.issue(&api.rule(more).await, json!({"count": 1})).await.remove(0));
    }
    let mut body = sale("o-1");
    // The fixed price is for one product of the basket; the gift is taken off what it costs.
    body["coupons"] =
        json!([{"code": codes[0], "amount": 1500}, {"code": codes[1]}, {"code": codes[2], "amount": 499}]);
    let done = once(api, "/v1/redemptions", &keys.pos, body.clone(), 200).await.json;
    let off: Vec<i64> =
        done["redemptions"].as_array().unwrap().iter().map(|one| one["discount"].as_i64().unwrap()).collect();
    assert_eq!((off, &done["discount"], &done["payable"]), (vec![510, 300, 499], &json!(1309), &json!(6691)));
    assert_eq!(done["redemptions"][2]["gift_sku"], json!("6901"));
    let again = api.post_numbered("/v1/redemptions", &keys.pos, &fresh_number(), body).await.expect(409);
    assert_eq!((again.code(), &again.json["position"]), ("coupon_already_redeemed", &json!(0)));
    let undo = json!({"store_id": "S0001", "redemption_id": done["redemptions"][1]["redemption_id"]});
    let back = once_reversed(api, &codes[1], undo).await;
    assert_eq!((&back["discount"], &back["whole"]), (&json!(300), &json!(true)));
    assert_eq!(seen(api, &codes[0]).await["state"], json!("redeemed"));
    for (bad, coupons) in [
        ("coupons", json!([])),
        ("coupons[1].code", json!([{"code": codes[1]}, {"code": codes[1].to_lowercase()}])),
        ("coupons[0].amount", json!([{"code": codes[1], "amount": 8001}])),
    ] {
        let mut body = sale("o-2");
        body["coupons"] = coupons;
        let answer = api.post_numbered("/v1/redemptions", &keys.pos, &fresh_number(), body).await.expect(422);
        assert_eq!(answer.json["field"], json!(bad));
    }
    crate::races::assert_clean(&app.db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_ends_locks_coupons_and_the_right_to_return() {
    let app = TestApp::spawn().await;
    let (api, pos) = (&app.client, &app.client.keys.pos);
    let end = app.clock.now() + TimeDelta::hours(3);
    let rule = api.rule(json!({"validity": {"until": end}, "reverse": {"days": 1, "cycles": 2}})).await;
    let codes = api.issue(&rule, json!({"count": 3})).await;
    let lock = async |order: &str, secs: i64| {
        let body = json!({"store_id": "S0001", "order_ref": order, "ttl_secs": secs});
        api.post_numbered(&path(&codes[0], "lock"), pos, &fresh_number(), body).await
    };
    lock("a", 60).await.expect(200);
    assert_eq!(lock("b", 60).await.expect(409).code(), "coupon_locked");
    app.clock.set_offset_ms(61_000);
    assert_eq!(seen(api, &codes[0]).await["state"], json!("issued"), "a lock ends by itself");
    let held = lock("b", 86_400).await.expect(200);
    let until: DateTime<Utc> = held.json["lock"]["until"].as_str().unwrap().parse().unwrap();
    assert!((until - end).abs() < TimeDelta::milliseconds(1), "no lock outlasts its coupon: {until}");
    let used = api.redeem(&codes[1]).await.expect(200);
    let late = api.redeem(&codes[2]).await.expect(200);

    app.clock.set_offset_ms(3 * 3_600_000 + 1_000);
    assert_eq!(seen(api, &codes[0]).await["state"], json!("expired"));
    assert_eq!(lock("c", 60).await.expect(422).code(), "coupon_expired");
    assert_eq!(lock("b", 60).await.expect(422).code(), "coupon_expired");
    let undo = |of: &Response| json!({"store_id": "S0001", "redemption_id": of.json["redemption_id"]});
    let back = once_reversed(api, &codes[1], undo(&used)).await;
    assert_eq!((&back["expired"], &back["state"], &back["uses"]), (&json!(true), &json!("expired"), &json!(0)));
    assert_eq!(api.redeem(&codes[1]).await.expect(422).code(), "coupon_expired");
    app.clock.set_offset_ms(30 * 3_600_000);
    let refused = api.post_numbered(&path(&codes[2], "reverse"), pos, &fresh_number(), undo(&late)).await.expect(422);
    assert!(refused.code() == "reverse_too_late" && refused.json["reversible_until"].is_string(), "{}", refused.text);
    app.stop().await;
}

/// What a draw of the lot does to a coupon before it is asked about.
async fn disturb(app: &TestApp, rng: &mut StdRng, rule: &str, member: &str, code: &str) {
    let (api, keys) = (&app.client, &app.client.keys);
    let post = async |what: &str, key: &str, body: Value| {
        api.post_numbered(&path(code, what), key, &fresh_number(), body).await;
    };
    let hold = |order: &str| json!({"store_id": "S0001", "order_ref": order});
    match rng.random_range(0..12) {
        0 => post("lock", &keys.pos, hold("mine")).await,
        1 => post("lock", &keys.pos, hold("another's")).await,
        2 => post("void", &keys.ops, json!({"reason": "x"})).await,
        3 | 4 => drop(api.redeem(code).await),
        5 => post("bind", &keys.pos, json!({"member_id": member})).await,
        6 => {
            let state = ["frozen", "cancelled"][rng.random_range(0..2)];
            let request = api.raw(reqwest::Method::PATCH, &format!("/v1/members/{member}")).bearer_auth(&keys.ops);
            api.send(request.header("if-match", "*").json(&json!({"state": state}))).await;
        }
        7 => {
            let pause = api.raw(reqwest::Method::POST, &format!("/v1/coupon-rules/{rule}/pause"));
            api.send(pause.bearer_auth(&keys.ops)).await;
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_validate_says_redeeming_says() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let mut sql = app.db.sql().await;
    for store in ["S0002", "S0003"] {
        make_store(&mut sql, store).await;
    }
    let suspend = api.raw(reqwest::Method::PATCH, "/v1/stores/S0003").bearer_auth(&keys.ops).header("if-match", "*");
    api.send(suspend.json(&json!({"state": "suspended"}))).await.expect(200);
    let mut rng = StdRng::seed_from_u64(20261122);
    let mut told = std::collections::BTreeMap::<String, usize>::new();
    for world in 0..scaled(150, 3000) {
        let member = api.member(&format!("+861390{world:07}")).await;
        let discount = match rng.random_range(0..4) {
            0 => json!({"type": "amount_off", "amount": rng.random_range(1..9000)}),
            1 => json!({"type": "percent_off", "basis_points": rng.random_range(1..10_001), "cap": 700}),
            2 => json!({"type": "fixed_price", "amount": rng.random_range(0..9000)}),
            _ => json!({"type": "gift", "sku": "6901", "amount": 500}),
        };
        let mut more =
            json!({"discount": discount, "threshold": rng.random_range(0..9000), "uses": rng.random_range(1..3)});
        if rng.random_bool(0.3) {
            more[["budget", "budget_per_day", "budget_per_store"][rng.random_range(0..3)]] =
                json!(rng.random_range(0..1500));
        }
        match rng.random_range(0..5) {
            0 => more["stores"] = json!({"in": ["S0002"]}),
            1 => more["validity"] = json!({"from": "2080-01-01T00:00:00Z", "until": "2081-01-01T00:00:00Z"}),
            _ => {}
        }
        let rule = api.rule(more).await;
        let body = if rng.random_bool(0.5) { json!({"member_id": member}) } else { json!({}) };
        let code = api.issue(&rule, body).await.remove(0);
        for _ in 0..2 {
            disturb(&app, &mut rng, &rule, &member, &code).await;
        }
        let store = if rng.random_bool(0.05) { "S0003" } else { ["S0001", "S0002"][rng.random_range(0..2)] };
        let mut body = json!({"store_id": store, "order_ref": "mine", "amount": rng.random_range(0..12_000)});
        if rng.random_bool(0.2) {
            body["currency"] = json!(["CNY", "USD"][rng.random_range(0..2)]);
        }
        if rng.random_bool(0.2) {
            body["member_id"] = json!([member.as_str(), "77"][rng.random_range(0..2)]);
        }
        let before = app.db.count(WRITTEN).await;
        let asked = api.post(&path(&code, "validate"), &keys.admin, body.clone()).await.expect(200).json;
        assert_eq!(app.db.count(WRITTEN).await, before, "asking writes nothing");
        let done = api.post_numbered(&path(&code, "redeem"), &keys.admin, &fresh_number(), body.clone()).await;
        let why = asked["why"].as_str().unwrap_or("").to_owned();
        assert_eq!(done.code(), why, "world {world}: {body}: {asked} but {}", done.text);
        assert_eq!(asked["applies"], json!(done.status.is_success()), "world {world}");
        let same: &[&str] =
            if done.status.is_success() { &["discount", "payable", "currency", "gift_sku"] } else { &["missing"] };
        for field in same {
            assert_eq!(asked[field], done.json[field], "world {world}: {field}");
        }
        for (name, value) in asked["more"].as_object().into_iter().flatten() {
            assert_eq!(value, &done.json[name], "world {world}: {name}");
        }
        *told.entry(why).or_default() += 1;
    }
    assert!(told.len() >= 10 && told[""] > 20, "the worlds are too much alike: {told:?}");
    app.stop().await;
}

const WRITTEN: &str = "select (select count(*) from request) + (select count(*) from redemption)
    + (select count(*) from event) + (select count(*) from coupon_stock) + (select coalesce(sum(xmin::text::bigint), 0)
    from coupon)::bigint";

#[tokio::test(flavor = "multi_thread")]
async fn validate_tells_of_strangers_and_bad_sales() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let code = &api.issue(&api.rule(json!({})).await, json!({"count": 1})).await[0];
    let ask = async |code: &str, key: &str, body: Value| api.post(&path(code, "validate"), key, body).await;
    let good = json!({"store_id": "S0001", "amount": 4999});
    let told = ask(code, &keys.pos, good.clone()).await.expect(200);
    let expected = json!({"code": code, "applies": false, "state": "issued", "why": "coupon_below_threshold",
        "missing": 1, "more": {"threshold": 5000}});
    assert_eq!(told.json, expected);
    let secrets = app.db.secrets();
    let day = tessera::clock::Zone::DEFAULT.day_of(app.clock.now());
    let stranger = secrets.codes().mint(day, 1_000_000_007).unwrap().to_string();
    assert_eq!(ask(&stranger, &keys.pos, good.clone()).await.expect(404).code(), "coupon_not_found");
    assert_eq!(ask("0000-0000-0000-0000", &keys.pos, good.clone()).await.expect(422).code(), "coupon_code_invalid");
    assert_eq!(ask(code, &keys.marketing, good.clone()).await.expect(403).code(), "role_forbidden");
    make_store(&mut app.db.sql().await, "S0002").await;
    let other = make_key(&mut app.db.sql().await, Role::Pos, Some("S0002"), 77).await;
    assert_eq!(ask(code, &other, good).await.expect(403).code(), "store_forbidden");
    for (field, value) in [("business_date", json!("2020-01-01")), ("lines", json!([{"line": "1", "amount": 1}]))] {
        let mut body = json!({"store_id": "S0001", "amount": 8000});
        body[field] = value;
        assert_eq!(ask(code, &keys.pos, body).await.expect(422).json["field"], json!(field));
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_knows_where_the_sale_is() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    make_store(&mut app.db.sql().await, "S0002").await;
    let member = api.member("+8613800000001").await;
    let percent = json!({"type": "percent_off", "basis_points": 1250, "cap": 900});
    for (name, discount, stores) in [
        ("here", json!({"type": "amount_off", "amount": 800}), json!({"in": ["S0001"]})),
        ("not here", percent.clone(), json!({"out": ["S0001"]})),
        ("everywhere", json!({"type": "fixed_price", "amount": 7500}), json!({"in": ["S0001", "S0002"]})),
    ] {
        let rule = api.rule(json!({"name": name, "discount": discount, "stores": stores})).await;
        api.issue(&rule, json!({"member_id": member})).await;
    }
    let wallet = async |key: &str, body: Value| {
        let wallet = api.post(&format!("/v1/members/{member}/wallet"), key, body).await.expect(200).json;
        let shown = |item: &Value| format!("{} {} {}", item["name"], item["saves"], item["why"]).replace('"', "");
        let mut shown: Vec<String> = wallet["items"].as_array().unwrap().iter().map(shown).collect();
        shown[1..].sort();
        shown
    };
    let at_first = ["here 800 null", "everywhere 500 null", "not here null coupon_not_for_store"];
    let at_second = ["not here 900 null", "everywhere 500 null", "here null coupon_not_for_store"];
    let anywhere = ["not here 900 null", "everywhere 500 null", "here 800 null"];
    let basket = json!({"amount": 8000});
    assert_eq!(wallet(&keys.pos, basket.clone()).await, at_first, "a till is where its store is");
    assert_eq!(wallet(&keys.ops, json!({"amount": 8000, "store_id": "S0001"})).await, at_first);
    assert_eq!(wallet(&keys.ops, json!({"amount": 8000, "store_id": "S0002"})).await, at_second);
    assert_eq!(wallet(&keys.ops, basket).await, anywhere);
    // With the look-up, and no basket.
    let found = api.post("/v1/members/lookup?coupons=usable", &keys.pos, json!({"phone": "+8613800000001"})).await;
    let items = found.expect(200).json["coupons"]["items"].as_array().unwrap().clone();
    let not_here: Vec<&Value> = items.iter().filter(|item| item["applies"] == json!(false)).collect();
    assert_eq!((not_here.len(), &not_here[0]["name"]), (1, &json!("not here")));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_basket_that_is_sent_again_as_offline_redemptions_is_that_basket() {
    let app = TestApp::spawn().await;
    let (api, pos) = (&app.client, &app.client.keys.pos);
    let rule = api.rule(json!({"threshold": 0})).await;
    let codes = api.issue(&rule, json!({"count": 2})).await;
    let day = tessera::clock::Zone::DEFAULT.day_of(app.clock.now());
    let coupons: Vec<Value> = codes.iter().map(|code| json!({"code": code})).collect();
    let body = json!({"store_id": "S0001", "register": "b", "business_date": day, "sequence": 701, "order_ref": "B701",
        "amount": 5000, "coupons": coupons});
    let done = api.post("/v1/redemptions", pos, body).await.expect(200).json;
    let item = |code: &String| {
        json!({"business_date": day, "sequence": 701, "redeemed_at": app.clock.now(), "code": code, "amount": 5000,
            "order_ref": "B701"})
    };
    let items: Vec<Value> = codes.iter().map(item).collect();
    let upload = json!({"store_id": "S0001", "register": "b", "items": items});
    let sent = api.post("/v1/pos/offline-redemptions", pos, upload).await.expect(200).json;
    assert_eq!((&sent["accepted"], &sent["conflicts"]), (&json!(2), &json!(0)), "{sent}");
    for (used, item) in done["redemptions"].as_array().unwrap().iter().zip(sent["items"].as_array().unwrap()) {
        assert_eq!(item["redemption_id"], used["redemption_id"], "{sent}");
        assert_eq!((&item["discount"], &item["payable"]), (&used["discount"], &used["payable"]), "{sent}");
    }
    assert_eq!(app.db.count("select count(*) from redemption").await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_names_nobody_and_a_use_may_be_taken_back_for_days_after_it_was() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let rule = api.rule(json!({"threshold": 0, "reverse": {"days": 1}})).await;
    let codes = api.issue(&rule, json!({"count": 2})).await;
    let reason = json!({"reason": "Lin, 13800000001, asked"});
    let refused = api.post_numbered(&path(&codes[0], "void"), &keys.marketing, &fresh_number(), reason).await;
    assert_eq!(refused.expect(422).code(), "invalid_field");
    // Used three days ago, and sent today.
    app.clock.set_offset_ms(3 * 86_400_000);
    let used_at = app.clock.now() - TimeDelta::days(3);
    let item = json!({"business_date": tessera::clock::Zone::DEFAULT.day_of(used_at), "sequence": 1,
        "redeemed_at": used_at, "code": codes[1], "amount": 5000, "order_ref": "late"});
    let upload = json!({"store_id": "S0001", "register": "9", "items": [item]});
    let sent = api.post("/v1/pos/offline-redemptions", &keys.pos, upload).await.expect(200).json;
    let body = json!({"store_id": "S0001", "redemption_id": sent["items"][0]["redemption_id"]});
    let late = api.post_numbered(&path(&codes[1], "reverse"), &keys.pos, &fresh_number(), body).await.expect(422);
    assert_eq!(late.code(), "reverse_too_late");
    app.stop().await;
}
