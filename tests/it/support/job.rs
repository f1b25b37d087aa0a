//! Imports as tests use them: a file is sent, its job is waited for.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::Value;

use super::{
    TestDb,
    command::{said, tessera},
    server::{Client, Response},
};

/// A job that has not moved for so long is not waited for.
const SOON: Duration = Duration::from_secs(120);

/// Sends a file; gives the answer.
pub async fn send(api: &Client, query: &str, file: impl Into<reqwest::Body>) -> Response {
    let request = api.raw(Method::POST, &format!("/v1/member-imports{query}")).bearer_auth(&api.keys.ops);
    api.send(request.header("content-type", "text/csv").body(file)).await
}

/// Sends a file that is taken in; gives the job's id.
pub async fn begin(api: &Client, query: &str, file: impl Into<reqwest::Body>) -> String {
    send(api, query, file).await.expect(201).json["job_id"].as_str().unwrap().to_owned()
}

pub async fn job(api: &Client, job_id: &str) -> Value {
    api.get(&format!("/v1/member-imports/{job_id}"), &api.keys.ops).await.expect(200).json
}

/// Waits until a job is in a state that the condition takes; gives it.
pub async fn until(api: &Client, job_id: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let mut moved = (Instant::now(), Value::Null);
    loop {
        let job = job(api, job_id).await;
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

pub async fn done(api: &Client, job_id: &str) -> Value {
    until(api, job_id, |job| ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap())).await
}

/// Rows ok, skipped and failed.
pub fn rows(job: &Value) -> (i64, i64, i64) {
    let count = |name: &str| job[name].as_i64().unwrap();
    (count("rows_ok"), count("rows_skipped"), count("rows_failed"))
}

pub async fn failures(api: &Client, job_id: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/member-imports/{job_id}/failures?limit=200{cursor}");
        let page = api.get(&path, &api.keys.ops).await.expect(200).json;
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

pub async fn assert_verified(db: &TestDb) {
    let verified = tessera(db, &["verify"]).await;
    assert!(verified.status.success(), "{}", said(&verified));
}

/// Clean rows with two identifiers each.
pub fn clean(rows: usize) -> String {
    let mut file = "phone,card,name\n".to_owned();
    for n in 0..rows {
        file.push_str(&format!("136{n:08},C{n},Lin {n}\n"));
    }
    file
}

pub async fn assert_members(db: &TestDb, members: i64) {
    for (table, each) in [("member", 1), ("member_key", 2), ("member_auth", 1), ("register_log", 1)] {
        assert_eq!(db.count(&format!("select count(*) from {table}")).await, members * each, "{table}");
    }
    assert_verified(db).await;
}
