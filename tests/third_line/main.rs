//! A third business line: a table and a file, and nothing else. What is in this folder is all that such a line needs; the
//! library that it is linked with knows nothing of it.

mod fleet;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests of the other binary use the rest")]
mod support;

use std::sync::Arc;

use rand::{SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tessera::{
    clock::Clock,
    db::lane::{Lane, LaneSettings, Tx, WriteError, Writer},
    id::MemberId,
    member::{family, profile},
    partition::{proof, queries},
    secret::{
        SecretFile, Secrets, Source,
        rotate::{KeyKind, Pace, Run},
    },
};

use self::support::{TestApp, server::Response};

/// The line's migration.
const MORE_SCHEMA: &str = include_str!("schema.sql");

async fn send(app: &TestApp, method: Method, path: &str, seen: Option<&str>, body: Value) -> Response {
    let api = &app.client;
    let request = api.raw(method, path).bearer_auth(&api.keys.pos).json(&body);
    api.send(match seen {
        Some(seen) => request.header("if-match", seen),
        None => request,
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_line_is_served_like_the_others() {
    let app = TestApp::spawn().await;
    let (api, keys) = (&app.client, &app.client.keys);
    let names: Vec<&str> = profile::lines().iter().map(|line| line.name()).collect();
    assert_eq!(names, ["fleet", "mall", "sport"]);
    let member = api.member("+8613800000001").await;
    let path = format!("/v1/members/{member}/profiles/fleet");
    assert_eq!(api.get(&path, &keys.pos).await.expect(404).code(), "profile_not_found");

    let body = json!({"vehicle": "van", "plate": "沪A12345"});
    let made = send(&app, Method::PUT, &path, None, body.clone()).await.expect(201);
    assert_eq!(
        (&made.json["line"], &made.json["vehicle"], &made.json["version"]),
        (&json!("fleet"), &json!("van"), &json!(1))
    );
    assert_eq!(made.json["plate"], json!("沪A***"), "masked by the line's file");
    assert_eq!(send(&app, Method::PUT, &path, None, body.clone()).await.expect(428).code(), "precondition_required");
    let same = send(&app, Method::PUT, &path, Some("\"v1\""), body).await.expect(200);
    assert_eq!(same.text, made.text);
    let ready = send(&app, Method::PATCH, &path, Some("\"v1\""), json!({"vehicle": null})).await.expect(200);
    assert_eq!((&ready.json["vehicle"], ready.header("etag")), (&Value::Null, Some("\"v2\"")));
    let refused = send(&app, Method::PATCH, &path, Some("*"), json!({"rating": 5})).await.expect(403);
    assert_eq!(refused.code(), "role_forbidden");
    let refused = send(&app, Method::PATCH, &path, Some("*"), json!({"height_mm": 1700})).await.expect(400);
    assert_eq!(refused.code(), "malformed_body");

    send(&app, Method::PUT, &format!("/v1/members/{member}/profiles/sport"), None, json!({})).await.expect(201);
    let all = api.get(&format!("/v1/members/{member}/profiles"), &keys.pos).await.expect(200);
    let shown: Vec<&str> =
        all.json["items"].as_array().unwrap().iter().map(|one| one["line"].as_str().unwrap()).collect();
    assert_eq!(shown, ["fleet", "sport"]);
    let document = api.get("/openapi.json", "").await.expect(200).text;
    assert!(document.contains("\"plate\""), "the line is in the document");
    let logged = "select count(*) from change_log where what = 29 and body like '%fleet%'";
    assert_eq!(app.db.count(logged).await, 2, "one row for each change");
    let plain = "select count(*) from member_profile_fleet f where f::text like '%12345%'
        or f::text like '%' || encode(convert_to('沪A12345', 'UTF8'), 'hex') || '%'";
    assert_eq!(app.db.count(plain).await, 0);

    let delete = |key: &str| api.send(api.raw(Method::DELETE, &path).bearer_auth(key));
    assert_eq!(delete(&keys.pos).await.expect(403).code(), "role_forbidden");
    delete(&keys.ops).await.expect(204);
    assert_eq!(delete(&keys.ops).await.expect(404).code(), "profile_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_statements_are_proved_with_all_others() {
    let app = TestApp::spawn().await;
    app.client.member("+8613800000001").await;
    let mut conn = PgConnection::connect_with(&app.db.service()).await.unwrap();
    let own = queries().filter(|query| query.name.contains("member_profile_fleet"));
    let report = proof::run(&mut conn, own, |_| {}).await.unwrap();
    assert!(report.ok() && report.rows.len() == 6, "{}", report.render());
    assert_eq!(
        app.db.count("select count(*) from pg_inherits where inhparent = 'member_profile_fleet'::regclass").await,
        16
    );
    app.stop().await;
}

/// What an erasure does with the family.
struct Erase;

impl Writer for Erase {
    type Op = MemberId;
    type Answer = Vec<(&'static str, u64)>;

    const NAME: &'static str = "erase";
    const BATCHED: bool = false;

    async fn run(&self, tx: &mut Tx<'_>, ops: &[Arc<MemberId>]) -> Result<Vec<Option<Self::Answer>>, WriteError> {
        Ok(vec![Some(family::delete_all(tx, *ops[0]).await?)])
    }

    async fn look_up(&self, _: &mut Tx<'_>, _: &MemberId) -> Result<Option<Self::Answer>, WriteError> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_export_and_erasure_reach_it() {
    let app = TestApp::spawn().await;
    let member = app.client.member("+8613800000001").await;
    let path = format!("/v1/members/{member}/profiles/fleet");
    send(&app, Method::PUT, &path, None, json!({"plate": "沪A12345"})).await.expect(201);
    send(&app, Method::PUT, &format!("/v1/members/{member}/tags/vip"), None, json!({})).await.expect(200);
    let member_id: MemberId = member.parse().unwrap();
    let mut conn = app.db.sql().await;
    let export = family::export(&mut conn, &app.db.secrets(), member_id).await.unwrap();
    assert_eq!(export["profile_fleet"][0]["plate"], json!("沪A12345"));
    assert_eq!(export["tag"][0]["tag"], json!("vip"));

    let lane = Lane::start(app.db.service(), LaneSettings::default());
    let eraser = lane.writer(Erase);
    let (deleted, _) = eraser.write(member_id).await.unwrap();
    assert_eq!(deleted, [("member_profile_fleet", 1), ("member_tag", 1)]);
    let (again, _) = eraser.write(member_id).await.unwrap();
    assert_eq!(again, [], "a second time finds nothing");
    assert_eq!(family::export(&mut conn, &app.db.secrets(), member_id).await.unwrap(), json!({}));
    lane.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_of_keys_reaches_it() {
    let app = TestApp::spawn().await;
    let member = app.client.member("+8613800000001").await;
    let path = format!("/v1/members/{member}/profiles/fleet");
    send(&app, Method::PUT, &path, None, json!({"plate": "沪A12345"})).await.expect(201);
    let (db, member_id): (_, MemberId) = (app.db.clone(), member.parse().unwrap());
    // Its secrets are those of the whole run, which must stay.
    app.stop().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets.toml");
    std::fs::copy(db.secrets_path(), &file).unwrap();
    let mut rng = StdRng::seed_from_u64(31);
    let secrets = Secrets::new(&SecretFile::load(&file).unwrap(), StdRng::seed_from_u64(32));
    let secrets = Arc::new(secrets.of(Source::File(file.clone())));
    let mut sink = |_: &str| {};
    let mut run = Run::open(db.service(), secrets, Clock::system(), Pace::default(), &mut sink).await.unwrap();
    let new = run.add(KeyKind::Pii, &mut rng).await.unwrap();
    run.make_current(KeyKind::Pii, new).await.unwrap();
    let refused = run.drop_key(KeyKind::Pii, 1).await.unwrap_err().to_string();
    assert!(refused.contains("1 rows of member_profile_fleet"), "{refused}");
    run.rewrite(KeyKind::Pii).await.unwrap();
    run.drop_key(KeyKind::Pii, 1).await.unwrap();
    run.close().await;

    let under = |key: i16| format!("select count(*) from member_profile_fleet where get_byte(plate, 0) = {key}");
    assert_eq!((db.count(&under(1)).await, db.count(&under(new)).await), (0, 1));
    let secrets = Secrets::new(&SecretFile::load(&file).unwrap(), StdRng::seed_from_u64(33));
    let export = family::export(&mut db.sql().await, &secrets, member_id).await.unwrap();
    assert_eq!(export["profile_fleet"][0]["plate"], json!("沪A12345"));
}
