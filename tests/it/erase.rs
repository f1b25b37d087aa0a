//! Erasing a person: nothing tells who it was, the ledger stands, and whoever was at it at the same time was before or
//! after.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Executor, Row};

use crate::{
    races::{all, assert_clean},
    support::{
        Pair, TestApp, TestDb, scaled,
        server::{Client, Response, fresh_number},
    },
};

const PHONE: &str = "+8613800000001";

async fn erase(client: &Client, member: &str) -> Response {
    let path = format!("/v1/members/{member}?reason=asked");
    client.send(client.raw(Method::DELETE, &path).bearer_auth(&client.keys.ops)).await
}

/// Every row of every partitioned table as text, except the ledger's own.
async fn dump(db: &TestDb) -> String {
    let mut conn = db.sql().await;
    let mut text = String::new();
    for plan in tessera::partition::plans().iter() {
        let all = format!("select to_jsonb(t)::text from {} t", plan.table);
        let rows = sqlx::query(sqlx::AssertSqlSafe(all)).fetch_all(&mut conn).await.unwrap();
        for row in rows {
            text.push_str(&format!("{} {}\n", plan.table, row.get::<String, _>(0)));
        }
    }
    text
}

/// Two tags and two roles, one of each taken back.
const LABELS: [&str; 4] = ["Oolongist", "Insomniac", "Sommelier", "Falconer"];

async fn label(api: &Client, path: &str) {
    for (method, label) in [
        (Method::PUT, "/tags/Oolongist"),
        (Method::PUT, "/tags/Insomniac"),
        (Method::DELETE, "/tags/Insomniac"),
        (Method::PUT, "/roles/mall/Sommelier"),
        (Method::PUT, "/roles/mall/Falconer"),
        (Method::DELETE, "/roles/mall/Falconer"),
    ] {
        let request = api.raw(method, &format!("{path}{label}")).bearer_auth(&api.keys.ops);
        assert!(api.send(request).await.status.is_success(), "{label}");
    }
}

async fn nothing_is_said_of_nobody(api: &Client, path: &str) {
    let json = |method: Method, rest: &str, body: Value| {
        let request = api.raw(method, &format!("{path}{rest}")).bearer_auth(&api.keys.ops).header("if-match", "*");
        api.send(request.json(&body))
    };
    for answer in [
        json(Method::PATCH, "", json!({"kind": "operations"})).await,
        json(Method::PATCH, "", json!({"muted": true})).await,
        json(Method::PUT, "/roles/mall/clerk", json!({})).await,
        json(Method::PUT, "/tags/vip", json!({})).await,
        json(Method::PUT, "/devices", json!({"device_id": "d"})).await,
        json(Method::DELETE, "/location", json!({})).await,
    ] {
        assert_eq!(answer.expect(422).code(), "member_erased");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_erasure_nothing_tells_who_it_was_and_the_ledger_stands() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let number = fresh_number();
    let body = json!({"phone": PHONE, "email": "lin@example.cn", "username": "lin", "external": ["web:4711"],
        "name": "Lin Ming", "nickname": "Moonlight", "gender": "female", "birthday": "1990-05-01"});
    let made = api.post_numbered("/v1/members", &api.keys.pos, &number, body.clone()).await.expect(201);
    let member = made.json["member_id"].as_str().unwrap().to_owned();
    let again = api.post_numbered("/v1/members", &api.keys.pos, &number, body.clone()).await.expect(201);
    assert_eq!((&again.text, again.header("idempotency-replayed")), (&made.text, Some("true")));
    let path = format!("/v1/members/{member}");
    let patch = api.raw(Method::PATCH, &path).bearer_auth(&api.keys.ops).header("if-match", "*");
    api.send(patch.json(&json!({"signature": "Carpe noctem"}))).await.expect(200);
    label(api, &path).await;
    assert_eq!(app.db.count("select count(*) from change_log where what in (30, 34)").await, 6);
    let rule = api.rule(json!({})).await;
    let codes = api.issue(&rule, json!({"member_id": member, "count": 2})).await;
    api.redeem(&codes[0]).await.expect(200);
    let before = dump(&app.db).await;
    let ledger = |text: &str| {
        let mut rows: Vec<String> = text
            .lines()
            .filter(|line| ["coupon", "redemption", "member_rule"].iter().any(|table| line.starts_with(table)))
            .map(str::to_owned)
            .collect();
        rows.sort();
        rows
    };

    let first = erase(api, &member).await.expect(200);
    assert_eq!((&first.json["member_id"], &first.json["state"]), (&json!(member), &json!("cancelled")));
    let after = dump(&app.db).await;
    assert_eq!(ledger(&after), ledger(&before));
    assert!(before.contains(LABELS[0]) && before.contains(LABELS[2]));
    for told in ["Moonlight", "noctem", "Lin", "1990-", "+86138****", "l***@", "web:4"].iter().chain(&LABELS) {
        assert!(!after.contains(*told), "{told} is left");
    }
    assert_eq!(app.db.count("select count(*) from member_key").await, 0);
    assert_eq!(app.db.count("select count(*) from member_auth").await, 0);
    let left = "select count(*) from member where phone is not null or email is not null or name is not null
        or birthday is not null or nickname is not null or signature is not null or gender <> 0";
    assert_eq!(app.db.count(left).await, 0);
    let logged =
        "select (select count(*) from audit_log where what = 3) + (select count(*) from change_log where what = 90)";
    assert_eq!(app.db.count(logged).await, 2);

    // Once more, and by the number of the registration: nothing comes back.
    assert_eq!(erase(api, &member).await.expect(200).text, first.text);
    assert_eq!(app.db.count(logged).await, 2);
    let shown = api.get(&path, &api.keys.pos).await.expect(200);
    assert_eq!((&shown.json["state"], shown.json["erased_at"].is_null()), (&json!("cancelled"), false));
    for answer in [
        shown,
        api.post_numbered("/v1/members", &api.keys.pos, &number, body.clone()).await.expect(201),
        api.get(&format!("/v1/requests/register/{number}"), &api.keys.pos).await.expect(200),
    ] {
        for told in ["Moonlight", "138*", "example", "L*", "1990"] {
            assert!(!answer.text.contains(told), "{}", answer.text);
        }
    }
    assert_eq!(api.redeem(&codes[1]).await.expect(422).code(), "member_cancelled");
    let patch = api.raw(Method::PATCH, &path).bearer_auth(&api.keys.ops).header("if-match", "*");
    let back = api.send(patch.json(&json!({"state": "normal"}))).await;
    assert_eq!(back.expect(422).code(), "member_erased");
    nothing_is_said_of_nobody(api, &path).await;
    // The phone is free, and whoever has it is somebody else.
    let lookup = api.post("/v1/members/lookup", &api.keys.pos, json!({"phone": PHONE})).await;
    assert_eq!(lookup.expect(404).code(), "member_not_found");
    assert_ne!(api.member(PHONE).await, member);
    let stranger = erase(api, "1").await;
    assert_eq!(stranger.expect(404).code(), "member_not_found");
    let db = app.db.clone();
    app.stop().await;
    assert_clean(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_of_a_version_that_has_passed_is_refused() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let member = api.member(PHONE).await;
    let path = format!("/v1/members/{member}");
    let delete = |etag: &str| api.raw(Method::DELETE, &path).bearer_auth(&api.keys.admin).header("if-match", etag);
    assert_eq!(api.send(delete("\"v7\"")).await.expect(412).code(), "precondition_failed");
    let by_till = api.raw(Method::DELETE, &path).bearer_auth(&api.keys.pos);
    assert_eq!(api.send(by_till).await.expect(403).code(), "role_forbidden");
    assert_eq!(app.db.count("select count(*) from member_key").await, 1);
    api.send(delete("\"v1\"")).await.expect(200);
    api.send(delete("\"v1\"")).await.expect(200);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_tells_everything_to_few_and_is_written_down() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let body = json!({"phone": PHONE, "external": ["web:470815110042"], "name": "Lin Ming", "birthday": "1990-05-01"});
    let made = api.post("/v1/members", &api.keys.pos, body).await.expect(201);
    let member = made.json["member_id"].as_str().unwrap().to_owned();
    let rule = api.rule(json!({})).await;
    let codes = api.issue(&rule, json!({"member_id": member, "count": 2})).await;
    let used = api.redeem(&codes[0]).await.expect(200);
    // It waits for nobody who changes the member, and nobody for it.
    let mut busy = app.db.sql().await;
    let lock = format!("begin; select 1 from member where member_id = {member} for update");
    busy.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    let path = format!("/v1/members/{member}/export");
    for key in [&api.keys.pos, &api.keys.marketing] {
        api.post(&path, key, json!({})).await.expect(403);
    }
    assert_eq!(app.db.count("select count(*) from audit_log").await, 0);
    let exported = api.send(api.raw(Method::POST, &path).bearer_auth(&api.keys.ops)).await.expect(200).json;
    assert_eq!(
        (&exported["member"]["name"], &exported["member"]["birthday"]),
        (&json!("Lin Ming"), &json!("1990-05-01"))
    );
    let identifiers: Vec<&str> =
        exported["keys"].as_array().unwrap().iter().map(|key| key["identifier"].as_str().unwrap()).collect();
    assert_eq!(identifiers, [PHONE, "web:470815110042"]);
    let coupons = exported["coupons"].as_array().unwrap();
    let spent = coupons.iter().find(|coupon| coupon["code"] == json!(codes[0])).unwrap();
    assert_eq!((coupons.len(), &spent["redemption_id"]), (2, &used.json["redemption_id"]));
    assert_eq!(exported["log"][0]["what"], json!("registered"));
    assert_eq!(app.db.count("select count(*) from audit_log where what = 2 and body = '{}'").await, 1);
    // Long enough that no number and no ciphertext has it by chance.
    assert!(!dump(&app.db).await.contains("470815110042"));
    api.post("/v1/members/1/export", &api.keys.ops, json!({})).await.expect(404);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redemptions_are_before_the_erasure_or_refused() {
    let pair = Pair::spawn(&[]).await;
    let [a, _] = pair.clients();
    for round in 0..scaled(2, 20) {
        let phone = format!("+86138000001{round:02}");
        let member = a.member(&phone).await;
        let rule = a.rule(json!({})).await;
        let codes = a.issue(&rule, json!({"member_id": member, "count": 60})).await;
        let (granted, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        all(pair.clients(), async |client, worker| match worker {
            // Whoever erases is amid the tills; one registers the same phone, one changes what is going.
            0..2 => drop(erase(client, &member).await.expect(200)),
            2 => {
                let answer = client.post("/v1/members", &client.keys.pos, json!({"phone": phone})).await;
                assert!(answer.status.is_success() || answer.code() == "member_key_taken", "{}", answer.text);
            }
            3 => {
                let path = format!("/v1/members/{member}/keys");
                let answer = client.post(&path, &client.keys.ops, json!({"username": format!("u{round}")})).await;
                assert!(answer.status.is_success() || answer.code() == "member_cancelled", "{}", answer.text);
            }
            _ => {
                let answer = client.redeem(&codes[worker - 4]).await;
                match answer.status.as_u16() {
                    200 => drop(granted.fetch_add(1, Ordering::Relaxed)),
                    status => {
                        assert_eq!((status, answer.code()), (422, "member_cancelled"), "{}", answer.text);
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        })
        .await;
        assert_eq!(granted.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed), 60);
        let db = &pair.db;
        let of_member = format!("where member_id = {member}");
        assert_eq!(
            db.count(&format!("select count(*) from redemption {of_member}")).await,
            granted.into_inner() as i64
        );
        // None was recorded after.
        let late = format!(
            "select count(*) from redemption r join member m using (member_id) where m.member_id = {member}
             and r.recorded_at > m.erased_at + interval '100 milliseconds'"
        );
        assert_eq!(db.count(&late).await, 0);
        for table in ["member_key", "member_auth"] {
            assert_eq!(db.count(&format!("select count(*) from {table} {of_member}")).await, 0, "{table}");
        }
        let state = format!(
            "select count(*) from member {of_member} and state = 3 and erased_at is not null and phone is null"
        );
        assert_eq!(db.count(&state).await, 1);
        let known = a.post("/v1/members/lookup", &a.keys.pos, json!({"phone": phone})).await;
        assert_ne!(known.json["member_id"], Value::from(member.as_str()));
    }
    assert_clean(&pair.db).await;
}
