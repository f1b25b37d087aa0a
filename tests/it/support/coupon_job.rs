//! Jobs over coupons as tests use them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{
    TestDb,
    server::{Client, Response, fresh_number},
};

/// A job that has not moved for so long is not waited for.
const SOON: Duration = Duration::from_secs(120);

/// The jobs of a rule.
pub fn jobs_of(rule: &str) -> String {
    format!("/v1/coupon-rules/{rule}/issue-jobs")
}

/// Sends a file to a path as an admin.
pub async fn send_file(api: &Client, path: &str, file: impl Into<reqwest::Body>) -> Response {
    let request = api.raw(Method::POST, path).bearer_auth(&api.keys.admin);
    let request = request.header("idempotency-key", fresh_number()).header("content-type", "text/csv");
    api.send(request.body(file)).await
}

/// Begins a job over a file, which starts at once; gives its path.
pub async fn begin_file(api: &Client, rule: &str, query: &str, file: impl Into<reqwest::Body>) -> String {
    let made = send_file(api, &format!("{}?start=true{query}", jobs_of(rule)), file).await.expect(201);
    made.header("location").unwrap().to_owned()
}

/// Begins a job over a count, which starts at once; gives its path.
pub async fn begin_count(api: &Client, rule: &str, count: usize) -> String {
    let path = format!("{}?start=true", jobs_of(rule));
    let made =
        api.post_numbered(&path, &api.keys.marketing, &fresh_number(), json!({ "count": count })).await.expect(201);
    made.header("location").unwrap().to_owned()
}

/// Begins an import of coupons; gives its path.
pub async fn begin_import(api: &Client, file: impl Into<reqwest::Body>) -> String {
    let made = send_file(api, "/v1/coupon-imports", file).await.expect(201);
    made.header("location").unwrap().to_owned()
}

pub async fn job_at(api: &Client, path: &str) -> Value {
    api.get(path, &api.keys.admin).await.expect(200).json
}

pub async fn act(api: &Client, path: &str, act: &str) -> Response {
    api.send(api.raw(Method::POST, &format!("{path}/{act}")).bearer_auth(&api.keys.admin)).await
}

/// Waits until a job is as the condition wants it; gives it.
pub async fn until_at(api: &Client, path: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let mut moved = (Instant::now(), Value::Null);
    loop {
        let job = job_at(api, path).await;
        if condition(&job) {
            return job;
        }
        if moved.1 != job["rows_done"] {
            moved = (Instant::now(), job["rows_done"].clone());
        }
        assert!(moved.0.elapsed() < SOON, "{job}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn done_at(api: &Client, path: &str) -> Value {
    until_at(api, path, |job| ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap())).await
}

/// Row and code of each failure.
pub async fn failed_rows(api: &Client, path: &str) -> Vec<(i64, String)> {
    let page = api.get(&format!("{path}/failures?limit=200"), &api.keys.admin).await.expect(200).json;
    let row = |one: &Value| (one["row"].as_i64().unwrap(), one["code"].as_str().unwrap().to_owned());
    page["items"].as_array().unwrap().iter().map(row).collect()
}

/// Code and state of each coupon of a job.
pub async fn codes_of(api: &Client, path: &str) -> Vec<(String, String)> {
    let text = api.get(&format!("{path}/codes"), &api.keys.marketing).await.expect(200).text;
    let rows = text.lines().skip(1).enumerate().map(|(at, line)| {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields[0], (at + 1).to_string(), "{line}");
        (fields[1].to_owned(), fields[2].to_owned())
    });
    rows.collect()
}

/// What must hold of a rule whatever ran: coupons and their index rows are as many, stock and limits agree with them, and
/// what jobs have noted is there.
pub async fn assert_exact(db: &TestDb, living: i64) {
    let count = async |sql: &str| db.count(sql).await;
    assert_eq!(count("select count(*) from coupon where state <> 3").await, living, "living coupons");
    assert_eq!(count("select count(*) from coupon").await, count("select count(*) from coupon_index").await);
    let held = count("select count(*) from coupon where member_id is not null").await;
    assert_eq!(held, count("select count(*) from coupon_receive").await);
    let stock = "select coalesce(sum(issued - voided), 0)::bigint from coupon_stock where period = 0 and store_no = 0";
    assert_eq!(count(stock).await, living, "stock");
    let wrong = "select count(*) from member_rule m where m.taken <> (select count(*) from coupon_receive r
        where r.member_id = m.member_id and r.rule_id = m.rule_id and r.state <> 3)";
    assert_eq!(count(wrong).await, 0, "limits");
    super::job::assert_verified(db).await;
}
