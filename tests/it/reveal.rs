//! Unmasked answers: audited, or not given.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};

use crate::support::{
    TestApp, TestDb,
    server::{Keys, Response, settings},
};

async fn person(app: &TestApp) -> String {
    let body = json!({"phone": "+8613800000001", "email": "lin@example.cn", "username": "linlin",
        "name": "Lin Xiaoming", "birthday": "1990-05-01", "external": ["web:42"]});
    let made = app.client.post("/v1/members", &app.client.keys.pos, body).await.expect(201);
    made.json["member_id"].as_str().unwrap().to_owned()
}

async fn reveal(app: &TestApp, member: &str, key: &str, fields: Value) -> Response {
    let body = json!({"fields": fields, "reason": "ticket 4711: the customer asks"});
    app.client.post(&format!("/v1/members/{member}/reveal"), key, body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revealed_is_written_down_with_who_and_why_and_without_the_values() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = person(&app).await;
    let fields = json!(["birthday", "phone", "identifiers", "name", "email"]);
    let seen = reveal(&app, &member, &keys.ops, fields.clone()).await.expect(200);
    assert_eq!(seen.header("cache-control"), Some("no-store"));
    assert_eq!(
        seen.json["fields"],
        json!({"phone": "+8613800000001", "email": "lin@example.cn", "name": "Lin Xiaoming", "birthday": "1990-05-01",
            "identifiers": [{"kind": "username", "identifier": "linlin"}, {"kind": "external", "identifier": "web:42"}]})
    );
    let audits = api.get(&format!("/v1/logs/audits?member_id={member}"), &keys.admin).await.expect(200);
    let rows = audits.json["items"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{}", audits.text);
    assert_eq!(rows[0]["log_id"], seen.json["log_id"]);
    assert_eq!((&rows[0]["what"], &rows[0]["actor"]), (&json!("revealed"), &json!("test-ops-2")));
    assert_eq!(rows[0]["details"], json!({"fields": fields, "reason": "ticket 4711: the customer asks", "version": 1}));
    for value in ["13800000001", "lin@example.cn", "Xiaoming", "1990-05-01", "linlin", "web:42"] {
        assert!(!audits.text.contains(value), "the audit tells {value}: {}", audits.text);
    }
    // What a member does not have is null; a member that there is not leaves no row.
    let plain = app.client.member("+8613800000002").await;
    let none = reveal(&app, &plain, &keys.admin, json!(["name", "identifiers"])).await.expect(200);
    assert_eq!(none.json["fields"], json!({"name": null, "identifiers": []}));
    reveal(&app, "1", &keys.admin, json!(["name"])).await.expect(404);
    assert_eq!(app.db.count("select count(*) from audit_log").await, 2);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_tables_of_the_family_mask_is_revealed_by_their_names() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = person(&app).await;
    let send = async |method: reqwest::Method, path: &str, body: Value| {
        let path = format!("/v1/members/{member}/{path}");
        let answer = api.send(api.raw(method, &path).bearer_auth(&keys.pos).json(&body)).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text);
        answer
    };
    let at = json!({"latitude": 31.230416, "longitude": 121.473701});
    let address = json!({"receiver": "Lin Xiaoming", "phone": "+8613800000001", "detail": "Nanjing Road 1, room 702",
        "city": "Shanghai", "coordinates": at});
    let made = send(reqwest::Method::POST, "addresses", address).await;
    let device = json!({"device_id": "8a6f1d0e-2b7c", "push_token": "fcm:dK3vYkq0", "os": "iOS 19.1"});
    let seen = send(reqwest::Method::PUT, "devices", device).await;
    let named = json!({"real_name": "Lin Xiaoming", "id_card": "11010519491231002X"});
    send(reqwest::Method::PUT, "profiles/mall", named.clone()).await;
    send(reqwest::Method::PUT, "location", json!({"city": "Shanghai", "coordinates": at})).await;
    let mut fields =
        reveal(&app, &member, &keys.ops, json!(["addresses", "devices", "mall", "location"])).await.expect(200);
    let fields = fields.json["fields"].take();
    assert_eq!(
        fields["addresses"],
        json!([{"address_id": made.json["address_id"], "receiver": "Lin Xiaoming", "phone": "+8613800000001",
            "detail": "Nanjing Road 1, room 702", "coordinates": at}])
    );
    let device =
        json!({"device_no": seen.json["device_no"], "device_id": "8a6f1d0e-2b7c", "push_token": "fcm:dK3vYkq0"});
    assert_eq!(fields["devices"], json!([device]));
    assert_eq!(fields["mall"], json!([named]));
    assert_eq!(fields["location"][0]["coordinates"], at);
    let plain = app.client.member("+8613800000002").await;
    let none = reveal(&app, &plain, &keys.ops, json!(["addresses", "mall"])).await.expect(200);
    assert_eq!(none.json["fields"], json!({"addresses": [], "mall": []}));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_row_in_the_audit_there_is_no_answer() {
    let app = TestApp::spawn().await;
    let member = person(&app).await;
    let key = app.client.keys.ops.clone();
    let tells = |answer: &Response| answer.text.contains("13800000001") || answer.text.contains("Lin");
    // The table cannot be written to: it is waited for as long as the lane waits for anything.
    let mut sql = app.db.sql().await;
    sql.execute("begin; lock table audit_log in exclusive mode").await.unwrap();
    let answer = reveal(&app, &member, &key, json!(["phone", "name"])).await.expect(503);
    assert!(answer.code() == "unavailable" && !tells(&answer), "{}", answer.text);
    sql.execute("rollback").await.unwrap();
    // It refuses the row.
    let leaf: String = sqlx::query_scalar(
        "select inhrelid::regclass::text from pg_inherits where inhparent = 'audit_log'::regclass
            and inhrelid::regclass::text like to_char(now() at time zone 'UTC', '%YYYY_MM')",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    let fence = format!("alter table {leaf} add constraint fence check (false) not valid");
    sql.execute(AssertSqlSafe(fence)).await.unwrap();
    let answer = reveal(&app, &member, &key, json!(["phone", "name"])).await;
    assert!(answer.status.is_server_error() && !tells(&answer), "{}", answer.text);
    assert_eq!(app.db.count("select count(*) from audit_log").await, 0);
    sql.execute(AssertSqlSafe(format!("alter table {leaf} drop constraint fence"))).await.unwrap();
    let answer = reveal(&app, &member, &key, json!(["phone", "name"])).await.expect(200);
    assert!(tells(&answer));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reveal_needs_a_reason_that_names_nobody_and_has_a_rate() {
    let db = TestDb::new().await;
    let keys = Keys::make(&db).await;
    let mut settings = settings();
    settings.limits.reveals_per_minute = 3;
    let app = TestApp::on(&db, keys, settings, tessera::clock::Clock::system()).await;
    let (api, keys) = (&app.client, &app.client.keys);
    let member = person(&app).await;
    let path = format!("/v1/members/{member}/reveal");
    for (body, status, code) in [
        (json!({"fields": ["phone"]}), 400, "malformed_body"),
        (json!({"fields": ["phone"], "reason": ""}), 422, "invalid_field"),
        (json!({"fields": ["phone"], "reason": "called 138 0000 0001"}), 422, "invalid_field"),
        (json!({"fields": ["phone"], "reason": "lin@example.cn asks"}), 422, "invalid_field"),
        (json!({"fields": [], "reason": "ticket 4711"}), 422, "invalid_field"),
        (json!({"fields": ["phone", "phone"], "reason": "ticket 4711"}), 422, "invalid_field"),
        (json!({"fields": ["credential"], "reason": "ticket 4711"}), 422, "invalid_field"),
    ] {
        let answer = api.post(&path, &keys.ops, body.clone()).await.expect(status);
        assert_eq!(answer.code(), code, "{body}");
    }
    for _ in 0..3 {
        reveal(&app, &member, &keys.ops, json!(["phone"])).await.expect(200);
    }
    let answer = reveal(&app, &member, &keys.ops, json!(["phone"])).await.expect(429);
    assert_eq!(answer.code(), "too_many_requests");
    assert!(answer.header("retry-after").is_some());
    // Of one key: another's goes on, and so does everything else.
    reveal(&app, &member, &keys.admin, json!(["phone"])).await.expect(200);
    api.get(&format!("/v1/members/{member}"), &keys.ops).await.expect(200);
    app.stop().await;
}
