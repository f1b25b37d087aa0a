//! What is kept under a request number, who may read it, and on which days redemptions may stand.

use chrono::{Days, NaiveDate};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tessera::{
    boot,
    clock::{Clock, Zone},
    db::{migrate::role, sqlstate},
};

use crate::support::{
    TestApp, TestDb,
    server::{Response, fresh_number},
};

/// Sends a request twice and asks for its answer: three times the same bytes.
async fn thrice(app: &TestApp, operation: &str, path: &str, key: &str, body: Value) -> Response {
    let (api, number) = (&app.client, fresh_number());
    let first = api.post_numbered(path, key, &number, body.clone()).await;
    let again = api.post_numbered(path, key, &number, body).await;
    assert_eq!((again.status, &again.text), (first.status, &first.text));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let told = api.get(&format!("/v1/requests/{operation}/{number}"), key).await.expect(200);
    let status = first.status.as_u16();
    assert_eq!(told.text, format!("{{\"status\":{status},\"answer\":{}}}", first.text));
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_answers_hold_no_code_and_every_repetition_has_the_same_bytes() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let rule = api.rule(json!({"uses": 2})).await;
    let path = format!("/v1/coupon-rules/{rule}/coupons");
    let issued = thrice(&app, "issue", &path, &keys.marketing, json!({"count": 20})).await.expect(201);
    let codes: Vec<&str> =
        issued.json["coupons"].as_array().unwrap().iter().map(|coupon| coupon["code"].as_str().unwrap()).collect();
    assert_eq!(codes.len(), 20);
    let sale = json!({"store_id": "S0001", "order_ref": "S0001-93", "amount": 8000});
    let path = format!("/v1/coupons/{}/redeem", codes[0]);
    let used = thrice(&app, "redeem", &path, &keys.pos, sale.clone()).await.expect(200);
    assert_eq!(used.json["code"], json!(codes[0]));
    let path = format!("/v1/coupons/{}/reverse", codes[0]);
    let undo = json!({"store_id": "S0001", "redemption_id": used.json["redemption_id"]});
    let undone = thrice(&app, "reverse", &path, &keys.pos, undo).await.expect(200);
    assert_eq!(undone.json["code"], json!(codes[0]));
    let small = json!({"store_id": "S0001", "order_ref": "small", "amount": 1});
    thrice(&app, "redeem", &format!("/v1/coupons/{}/redeem", codes[1]), &keys.pos, small).await.expect(422);

    let answers = "select count(*) from request where answer is not null";
    assert!(app.db.count(answers).await >= 4);
    for code in codes {
        for text in [code.to_owned(), code.replace('-', "")] {
            assert_eq!(app.db.count(&format!("{answers} and answer like '%{text}%'")).await, 0);
            assert_eq!(app.db.count(&format!("select count(*) from event where body::text like '%{text}%'")).await, 0);
        }
    }
    app.stop().await;
}

/// The SQLSTATE of a statement as another role, or none.
async fn refused(conn: &mut PgConnection, sql: &str) -> Option<String> {
    let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.err()?;
    sqlstate(&error).map(|code| code.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reports_role_reads_the_ledger_and_neither_answers_nor_keys() {
    let db = TestDb::new().await;
    let leaf: String = {
        let mut conn = db.sql().await;
        sqlx::query_scalar("select max(relid::text) from pg_partition_tree('request') where isleaf")
            .fetch_one(&mut conn)
            .await
            .unwrap()
    };
    // As it was before the plan said so, and as a second migration leaves it.
    for again in [false, true] {
        if again {
            let mut conn = db.sql().await;
            let reopen = format!("grant select on request, {leaf} to {}", role::REPORT);
            assert_eq!(refused(&mut conn, &reopen).await, None);
            let within = std::time::Duration::from_secs(20);
            let owner = db.as_role(role::OWNER);
            boot::migrate_and_upkeep(&owner, within, Clock::system().now(), Zone::DEFAULT).await.unwrap();
        }
        let mut report = PgConnection::connect_with(&db.as_role(role::REPORT)).await.unwrap();
        for sql in ["select count(*) from redemption", "select count(*) from coupon", "select count(*) from store"] {
            assert_eq!(refused(&mut report, sql).await, None, "{sql}");
        }
        for sql in [
            "select answer from request".to_owned(),
            format!("select answer from {leaf}"),
            "select secret_sha256 from api_key".to_owned(),
            "delete from redemption".to_owned(),
        ] {
            assert_eq!(refused(&mut report, &sql).await.as_deref(), Some("42501"), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_business_date_lies_at_most_a_day_before_what_it_follows() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let rule = api.rule(json!({"uses": 9, "threshold": 5000})).await;
    let codes = api.issue(&rule, json!({"count": 2})).await;
    let today: NaiveDate = Zone::DEFAULT.day_of(app.clock.now()).to_date();
    let before = |days| (today - Days::new(days)).to_string();
    let redeem = format!("/v1/coupons/{}/redeem", codes[0]);
    let sale = |date: String, amount: i64| json!({"store_id": "S0001", "order_ref": "S0001-1", "amount": amount, "business_date": date});
    let send = async |path: &str, body: Value| api.post_numbered(path, &keys.pos, &fresh_number(), body).await;
    // The day before the issue is that of a store that closes after midnight; the one before it is nobody's.
    let used = send(&redeem, sale(before(1), 8000)).await.expect(200);
    let early = send(&redeem, sale(before(2), 8000)).await.expect(422);
    assert_eq!((early.code(), &early.json["first_business_date"]), ("coupon_not_yet_valid", &json!(before(1))));
    // In its place among what else stands against it.
    assert_eq!(send(&redeem, sale(before(2), 1)).await.code(), "coupon_not_yet_valid");
    assert_eq!(send(&redeem, sale(before(1), 1)).await.code(), "coupon_below_threshold");
    let rules = format!("/v1/coupon-rules/{rule}");
    api.send(api.raw(reqwest::Method::POST, &format!("{rules}/pause")).bearer_auth(&keys.marketing)).await.expect(200);
    assert_eq!(send(&redeem, sale(before(2), 8000)).await.code(), "rule_not_active");
    api.send(api.raw(reqwest::Method::POST, &format!("{rules}/resume")).bearer_auth(&keys.marketing)).await.expect(200);

    let reverse = format!("/v1/coupons/{}/reverse", codes[0]);
    let undo = |date: String, redemption: &Value| json!({"store_id": "S0001", "business_date": date, "redemption_id": redemption});
    let late = send(&redeem, sale(today.to_string(), 8000)).await.expect(200);
    let refused = send(&reverse, undo(before(2), &late.json["redemption_id"])).await.expect(422);
    assert_eq!((refused.code(), &refused.json["field"]), ("invalid_field", &json!("business_date")));
    send(&reverse, undo(before(1), &late.json["redemption_id"])).await.expect(200);
    send(&reverse, undo(today.to_string(), &used.json["redemption_id"])).await.expect(200);
    assert_eq!(app.db.count("select count(*) from redemption").await, 4);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_out_of_memory_says_so() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({})).await;
    let path = format!("/v1/coupon-rules/{rule}");
    let timing = async || api.get(&path, &api.keys.pos).await.expect(200).header("server-timing").unwrap().to_owned();
    let mut seen = timing().await;
    assert!(seen.contains("1 statements") || seen.contains("cache;desc=hit"), "{seen}");
    // Once the tail has told the node that it is up to date, the rule is kept.
    for _ in 0..6000 {
        if seen.contains("cache;desc=hit") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        seen = timing().await;
    }
    assert!(seen.contains("cache;desc=hit") && !seen.contains("statements"), "{seen}");
    app.stop().await;
}
