//! Uploads whose items were told before in another way, or cannot be read: each stands once, and none is lost.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use tessera::clock::Clock;

use crate::{
    races::assert_clean,
    support::{
        TestApp, TestDb,
        coupon_job::{begin_import, done_at},
        offline::{UPLOAD, assert_once, at_noon, day_of, item, noon, post, reasons, upload, with},
        server::{Keys, Response, fresh_number, settings},
    },
};

/// The same of both answers, but for which were repeated.
fn same_items(one: &Response, other: &Response) {
    assert_eq!(one.json["items"], other.json["items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_window_was_widened_is_found_afterwards() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let node = async |days_back: u16| {
        let mut settings = settings();
        settings.chain.request_days_back = days_back;
        TestApp::on(&db, keys.clone(), settings, Clock::fixed(noon())).await
    };
    let narrow = node(3).await;
    let day_before = noon() - TimeDelta::days(10);
    let rule = narrow.client.rule(json!({"uses": 2})).await;
    let code = narrow.client.issue(&rule, json!({})).await.remove(0);
    // As if it had been issued then.
    let sql = format!("update coupon set valid_from = '{0}', issued_at = '{0}'", day_before - TimeDelta::days(1));
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut db.sql().await).await.unwrap();
    let late = [item(1, &code, day_before)];
    let first = upload(&narrow.client, "1", &late).await.expect(200);
    assert_eq!(reasons(&first), ["request_number_expired"]);
    let wide = node(35).await;
    let again = upload(&wide.client, "1", &late).await.expect(200);
    same_items(&first, &again);
    assert_eq!(again.json["repeated"], 1);
    assert_once(&db, 1).await;
    assert_clean(&db).await;
    narrow.stop().await;
    wide.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_ledger_is_found_there_when_its_request_is_forgotten() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let node = async |clock| {
        let mut settings = settings();
        settings.chain.request_days_back = 1;
        TestApp::on(&db, keys.clone(), settings, clock).await
    };
    let now = noon();
    let (then, later) = (node(Clock::fixed(now)).await, node(Clock::fixed(now + TimeDelta::days(2))).await);
    let rule = then.client.rule(json!({"uses": 9})).await;
    let codes = then.client.issue(&rule, json!({"count": 2})).await;
    let known = [item(1, &codes[0], now), item(2, &codes[1], now), item(3, &codes[1], now)];
    let first = upload(&then.client, "1", &known).await.expect(200);
    assert_eq!(reasons(&first), [""; 3]);
    sqlx::query("delete from request").execute(&mut db.sql().await).await.unwrap();
    let mut sent: Vec<Value> = known.into_iter().rev().collect();
    // Of another number, of another coupon, of none, of another amount, of another day.
    sent.extend([4, 5].map(|sequence| item(sequence, &codes[0], now)));
    sent.extend([&codes[1], "?"].map(|code| item(1, code, now)));
    sent.push(with(item(1, &codes[0], now), json!({"amount": 1})));
    sent.push(item(1, &codes[0], now - TimeDelta::days(1)));
    let again = upload(&later.client, "1", &sent).await.expect(200);
    let items = again.json["items"].as_array().unwrap();
    for (found, known) in items.iter().zip(first.json["items"].as_array().unwrap().iter().rev()) {
        assert_eq!(found, known);
    }
    assert_eq!(reasons(&again)[3..], ["request_number_expired"; 6]);
    assert_eq!(db.count("select count(*) from redemption").await, 3);
    // Of another register.
    let other = upload(&later.client, "2", &sent[..1]).await.expect(200);
    assert_eq!(reasons(&other), ["request_number_expired"]);
    then.stop().await;
    later.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_too_early_is_found_when_its_day_has_come() {
    let app = at_noon().await;
    let (api, db) = (&app.client, &app.db);
    let rule = api.rule(json!({})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    // The clock of the till is days ahead; what it keeps of the sale does not change when that is mended.
    let early = [item(1, &code, noon() + TimeDelta::days(3))];
    let first = upload(api, "1", &early).await.expect(200);
    assert_eq!(reasons(&first), ["request_number_expired"]);
    for days in [1, 2, 3, 4] {
        app.clock.set_offset_ms(days * 86_400_000);
        let again = upload(api, "1", &early).await.expect(200);
        same_items(&first, &again);
        assert_eq!(again.json["repeated"], 1);
    }
    assert_once(db, 1).await;
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_redemption_in_two_spellings_of_its_coupon_is_one() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let rule = api.rule(json!({"uses": 4})).await;
    let shape = json!({"name": "old", "length_min": 8, "length_max": 8, "alphabet": "ABCDEFGH0123456789"});
    api.post("/v1/legacy-code-shapes", &api.keys.ops, shape).await.expect(201);
    let file = format!("code,rule_id,issued_on\nABC00001,{rule},{}\n", day_of(now));
    assert_eq!(done_at(api, &begin_import(api, file).await).await["rows_ok"], 1);
    let ours =
        api.get("/v1/coupons/ABC00001", &api.keys.pos).await.expect(200).json["code"].as_str().unwrap().to_owned();
    assert_ne!(ours, "ABC00001");
    // In one upload, and one after the other.
    let both = [item(1, "abc-00001", now), item(1, &ours, now), item(2, &ours, now)];
    let sent = upload(api, "1", &both).await.expect(200);
    assert_eq!(reasons(&sent), ["", "", ""]);
    assert_eq!(sent.json["items"][0], sent.json["items"][1]);
    let later = upload(api, "1", &[item(2, "ABC00001", now)]).await.expect(200);
    assert_eq!(later.json["items"][0]["redemption_id"], sent.json["items"][2]["redemption_id"]);
    // Of what does not fit too.
    let poor = |sequence, code: &str| with(item(sequence, code, now), json!({"amount": 100}));
    let refused = upload(api, "1", &[poor(3, "ABC00001"), poor(3, &ours), poor(4, &ours)]).await.expect(200);
    assert_eq!(reasons(&refused), ["coupon_below_threshold"; 3]);
    assert_eq!(refused.json["items"][0], refused.json["items"][1]);
    let later = upload(api, "1", &[poor(4, "ABC00001")]).await.expect(200);
    assert_eq!(later.json["items"][0], refused.json["items"][2]);
    // And of what says more in one of them, whichever comes first; other content is another item.
    let more = |sequence, code: &str| with(item(sequence, code, now), json!({"currency": "CNY"}));
    let items = [more(5, "ABC00001"), item(5, &ours, now), item(6, "ABC00001", now), more(6, &ours), poor(6, &ours)];
    let sent = upload(api, "1", &items).await.expect(200);
    assert_eq!(reasons(&sent), ["", "", "", "", "request_number_reused"]);
    assert_eq!(sent.json["items"][0], sent.json["items"][1]);
    assert_eq!(sent.json["items"][2], sent.json["items"][3]);
    same_items(&sent, &upload(api, "1", &items).await.expect(200));
    assert_eq!(db.count("select count(*) from redemption").await, 4);
    assert_eq!(db.count("select count(*) from redemption_conflict").await, 3);
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_online_of_a_sale_with_lines_is_the_reason_offline() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let rule = api.rule(json!({})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    let body = json!({"store_id": "S0001", "register": "1", "business_date": day_of(now), "sequence": 1, "amount": 100,
        "order_ref": "order-1", "currency": "CNY", "lines": [{"line": "1", "amount": 100}]});
    let path = format!("/v1/coupons/{code}/redeem");
    let refused = api.post(&path, &api.keys.pos, body.clone()).await.expect(422);
    let same = with(item(1, &code, now), json!({"amount": 100}));
    let other = with(item(1, &code, now), json!({"amount": 101}));
    let sent = upload(api, "1", &[same.clone(), other, same]).await.expect(200);
    assert_eq!(reasons(&sent), ["coupon_below_threshold", "request_number_reused", "coupon_below_threshold"]);
    // Online it stays what it was, and other lines are another request.
    let again = api.post(&path, &api.keys.pos, body.clone()).await.expect(422);
    assert_eq!((again.header("idempotency-replayed"), &again.text), (Some("true"), &refused.text));
    let lines = json!({"lines": [{"line": "1", "amount": 60}, {"line": "2", "amount": 40}]});
    assert_eq!(api.post(&path, &api.keys.pos, with(body, lines)).await.expect(409).code(), "request_number_reused");
    assert_once(db, 2).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_cannot_be_read_is_a_conflict_and_holds_up_no_other() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let rule = api.rule(json!({"uses": 2})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    let good = item(1, &code, now);
    let without = |name: &str| {
        let mut item = item(2, &code, now);
        item.as_object_mut().unwrap().remove(name);
        item
    };
    let items = [
        good.clone(),
        with(good.clone(), json!({"amount": -1})),
        with(good.clone(), json!({"amount": "80.00"})),
        with(good.clone(), json!({"redeemed_at": "yesterday"})),
        with(good.clone(), json!({"business_date": "2026-02-30"})),
        with(good.clone(), json!({"code": 7})),
        with(good.clone(), json!({"order_ref": "lin@example.cn or 13800000001"})),
        with(good.clone(), json!({"colour": "red"})),
        without("sequence"),
        json!([1, 2]),
        json!(null),
        item(3, &code, now),
    ];
    let sent = upload(api, "1", &items).await.expect(200);
    let told = reasons(&sent);
    assert_eq!((told[0], told[11]), ("", ""));
    assert!(told[1..11].iter().all(|reason| *reason == "item_malformed"), "{told:?}");
    let again = upload(api, "1", &items).await.expect(200);
    same_items(&sent, &again);
    assert_eq!(again.json["repeated"], items.len());
    assert_eq!(db.count("select count(*) from redemption_conflict where reason = 'item_malformed'").await, 10);
    assert_eq!(db.count("select count(*) from redemption").await, 2);
    // What can be read is kept, and what is wrong is said, but for what may name somebody.
    let conflict = async |at: usize| {
        let id = sent.json["items"][at]["conflict_id"].as_str().unwrap().to_owned();
        api.get(&format!("/v1/pos/conflicts/{id}"), &api.keys.pos).await.expect(200).json
    };
    let negative = conflict(1).await;
    assert_eq!((&negative["code"], &negative["amount"]), (&json!(code), &json!(0)));
    assert_eq!((&negative["details"]["field"], &negative["details"]["sent"]), (&json!("amount"), &json!("-1")));
    assert_eq!(conflict(3).await["amount"], 8000);
    let named = conflict(6).await;
    assert!(!named.to_string().contains("example.cn") && !named.to_string().contains("138000"), "{named}");
    assert_eq!(db.count("select count(*) from redemption_conflict where details like '%138000%'").await, 0);
    // A body that is no list of items is the sender's mistake.
    for body in
        [json!({"store_id": "S0001", "register": "1", "items": 7}), json!({"store_id": "S0001", "register": "1"})]
    {
        assert_eq!(api.post(UPLOAD, &api.keys.pos, body).await.expect(400).code(), "malformed_body");
    }
    // A till takes off no more than was to be paid, whatever it says.
    let much = with(item(9, &code, now), json!({"discount": 9_000}));
    assert_eq!(reasons(&upload(api, "1", &[much]).await.expect(200)), ["coupon_already_redeemed"]);
    assert_eq!(db.count("select discount from redemption_conflict where sequence = 9").await, 1000);
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_while_a_month_is_put_away_is_a_conflict_once() {
    let app = at_noon().await;
    let (api, db, now) = (&app.client, &app.db, noon());
    let rule = api.rule(json!({"uses": 9})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    assert_eq!(reasons(&upload(api, "1", &[item(1, &code, now)]).await.expect(200)), [""]);
    let mut sql = db.sql().await;
    for (sequence, table, reason) in [(2, "redemption", "month_retired"), (4, "coupon", "coupon_retired")] {
        let leaf = format!("{table}_{}", day_of(now).to_date().format("m%Y_%m"));
        let fence = format!("alter table {leaf} add constraint {leaf}_fence check (false) not valid");
        sqlx::query(sqlx::AssertSqlSafe(fence)).execute(&mut sql).await.unwrap();
        let items = [item(sequence, &code, now), item(sequence + 10, "nothing", now)];
        let sent = upload(api, "1", &items).await.expect(200);
        assert_eq!(reasons(&sent), [reason, "coupon_code_invalid"]);
        let unfence = format!("alter table {leaf} drop constraint {leaf}_fence");
        sqlx::query(sqlx::AssertSqlSafe(unfence)).execute(&mut sql).await.unwrap();
        same_items(&sent, &upload(api, "1", &items).await.expect(200));
        // It stays, as it turned out.
        assert_eq!(reasons(&upload(api, "1", &[item(sequence + 1, &code, now)]).await.expect(200)), [""]);
    }
    assert_once(db, 7).await;
    assert_clean(db).await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_codes_of_an_upload_cost_its_sender_other_requests_and_never_the_upload() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = settings();
    settings.limits.bad_codes_per_minute = 5;
    let app = TestApp::on(&db, keys, settings, Clock::fixed(noon())).await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    let look = async || api.get(&format!("/v1/coupons/{code}"), &api.keys.pos).await;
    let items = |from: usize| -> Vec<Value> { (from..from + 4).map(|n| item(n, "no code", noon())).collect() };
    for _ in 0..3 {
        // Sent again they are counted no more.
        upload(api, "1", &items(0)).await.expect(200);
    }
    look().await.expect(200);
    upload(api, "1", &items(4)).await.expect(200);
    assert_eq!(look().await.expect(429).code(), "too_many_bad_codes");
    let sent = upload(api, "1", &items(8)).await.expect(200);
    assert_eq!(reasons(&sent), ["coupon_code_invalid"; 4]);
    post(api, &format!("/v1/coupons/{code}/void"), json!({"reason": "printed twice"})).await;
    let request = api.raw(Method::GET, &format!("/v1/coupons/{code}")).bearer_auth(&api.keys.ops);
    api.send(request.header("x-request-id", fresh_number())).await.expect(200);
    app.stop().await;
}
