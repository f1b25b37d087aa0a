//! Imports of members: real households, dirt of every kind, the same file twice at once, processes killed half-way.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    Pair, Server, TestApp, TestDb, scaled,
    command::{said, tessera},
    server::{Client, Keys, Response, fresh_number},
};

const SOON: Duration = Duration::from_secs(120);

/// Sends a file; gives the answer.
async fn send(api: &Client, query: &str, file: impl Into<reqwest::Body>) -> Response {
    let request = api.raw(Method::POST, &format!("/v1/member-imports{query}")).bearer_auth(&api.keys.ops);
    api.send(request.header("content-type", "text/csv").body(file)).await
}

/// Sends a file that is taken in; gives the job's id.
async fn begin(api: &Client, query: &str, file: impl Into<reqwest::Body>) -> String {
    send(api, query, file).await.expect(201).json["job_id"].as_str().unwrap().to_owned()
}

async fn job(api: &Client, job_id: &str) -> Value {
    api.get(&format!("/v1/member-imports/{job_id}"), &api.keys.ops).await.expect(200).json
}

/// Waits until a job is in a state that the condition takes; gives it.
async fn until(api: &Client, job_id: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let job = job(api, job_id).await;
        if condition(&job) {
            return job;
        }
        assert!(started.elapsed() < SOON, "{job}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn done(api: &Client, job_id: &str) -> Value {
    until(api, job_id, |job| ["done", "failed", "cancelled"].contains(&job["state"].as_str().unwrap())).await
}

/// Rows ok, skipped and failed.
fn rows(job: &Value) -> (i64, i64, i64) {
    let count = |name: &str| job[name].as_i64().unwrap();
    (count("rows_ok"), count("rows_skipped"), count("rows_failed"))
}

async fn failures(api: &Client, job_id: &str) -> Vec<Value> {
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

async fn assert_verified(db: &TestDb) {
    let verified = tessera(db, &["verify"]).await;
    assert!(verified.status.success(), "{}", said(&verified));
}

fn journey() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data/journey/members.csv");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("the data of the journey: {}: {error}", path.display()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_households_of_the_journey_come_in_once() {
    let app = TestApp::spawn().await;
    let (api, db) = (&app.client, &app.db);
    let file = journey();
    let names = "external:crm,attr.age,attr.income,attr.home_ownership,attr.marital_status,attr.household_size,\
                 attr.household_comp,attr.kids_count";
    let query = format!("?columns={names}&file_name=members.csv");
    let job_id = begin(api, &query, file.clone()).await;
    let first = done(api, &job_id).await;
    assert_eq!((first["state"].as_str(), rows(&first)), (Some("done"), (1373, 0, 0)), "{first}");
    assert_eq!(db.count("select count(*) from member where source = 4").await, 1373);
    assert_eq!(db.count("select count(*) from member_key").await, 1373);
    assert_eq!(db.count("select count(*) from member_auth").await, 1373);

    let again = done(api, &begin(api, &query, file.clone()).await).await;
    assert_eq!((again["state"].as_str(), rows(&again)), (Some("done"), (0, 1373, 0)), "{again}");
    assert_eq!(db.count("select count(*) from member").await, 1373);
    assert_verified(db).await;
    app.stop().await;
}
