//! What tills did while they were cut off, as tests send it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tessera::{
    clock::{Clock, Zone},
    id::Day,
};

use super::{
    TestApp, TestDb,
    server::{Client, Keys, Response, fresh_number, settings},
};

pub const UPLOAD: &str = "/v1/pos/offline-redemptions";

/// Noon of today at the chain, so that hours to both sides are of this day.
pub fn noon() -> DateTime<Utc> {
    let today = Zone::DEFAULT.day_of(Clock::system().now());
    Zone::DEFAULT.start_of(today) + TimeDelta::hours(12)
}

pub fn day_of(at: DateTime<Utc>) -> Day {
    Zone::DEFAULT.day_of(at)
}

/// A redemption of 80.00 at an instant, on its day.
pub fn item(sequence: usize, code: &str, at: DateTime<Utc>) -> Value {
    json!({"business_date": day_of(at), "sequence": sequence, "redeemed_at": at, "code": code, "amount": 8000,
        "order_ref": format!("order-{sequence}")})
}

pub fn with(mut item: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        item[name] = value.clone();
    }
    item
}

pub async fn upload(api: &Client, register: &str, items: &[Value]) -> Response {
    let body = json!({"store_id": "S0001", "register": register, "items": items});
    api.post(UPLOAD, &api.keys.pos, body).await
}

/// The reason of each conflict, "" of what was accepted.
pub fn reasons(answer: &Response) -> Vec<&str> {
    let items = answer.json["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| match item["outcome"].as_str().unwrap() {
            "accepted" => "",
            _ => item["reason"].as_str().unwrap(),
        })
        .collect()
}

pub async fn post(api: &Client, path: &str, body: Value) -> Response {
    api.post_numbered(path, &api.keys.admin, &fresh_number(), body).await.expect(200)
}

/// Every item stands once, in the ledger or among the conflicts; numbers and sums of both.
pub async fn assert_once(db: &TestDb, items: usize) {
    const ALL: &str = "(select redemption_id as id, register, sequence, amount, order_ref, code_id::text as code
        from redemption where occurred_at is not null union all
        select conflict_id, register, sequence, amount, order_ref, coalesce(code_id::text, code)
        from redemption_conflict) as x";
    assert_eq!(db.count(&format!("select count(*) from {ALL}")).await, items as i64);
    assert_eq!(db.count(&format!("select count(distinct id) from {ALL}")).await, items as i64);
    let distinct = format!("select count(distinct (register, sequence, amount, order_ref, code)) from {ALL}");
    assert_eq!(db.count(&distinct).await, items as i64);
}

pub async fn at_noon() -> TestApp {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    TestApp::on(&db, keys, settings(), Clock::fixed(noon())).await
}
