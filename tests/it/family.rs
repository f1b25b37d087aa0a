//! What belongs to a member beside the core row: addresses, devices, location, profiles, roles, tags.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::support::{
    Pair, TestApp, TestDb, scaled,
    server::{Client, Response},
};

const WORKERS: usize = 64;

/// A member and a caller of one role.
struct Of<'a> {
    api: &'a Client,
    key: &'a str,
    member: String,
}

impl<'a> Of<'a> {
    async fn new(api: &'a Client, key: &'a str) -> Self {
        Self { api, key, member: api.member("+8613800000001").await }
    }

    async fn send(&self, method: Method, path: &str, seen: Option<&str>, body: Option<Value>) -> Response {
        let request = self.api.raw(method, &format!("/v1/members/{}{path}", self.member)).bearer_auth(self.key);
        let request = match seen {
            Some(seen) => request.header("if-match", seen),
            None => request,
        };
        self.api
            .send(match body {
                Some(body) => request.json(&body),
                None => request,
            })
            .await
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, None, None).await
    }

    async fn post(&self, path: &str, body: Value) -> Response {
        self.send(Method::POST, path, None, Some(body)).await
    }

    async fn put(&self, path: &str, body: Value) -> Response {
        self.send(Method::PUT, path, None, Some(body)).await
    }

    async fn patch(&self, path: &str, seen: &str, body: Value) -> Response {
        self.send(Method::PATCH, path, Some(seen), Some(body)).await
    }

    async fn delete(&self, path: &str) -> Response {
        self.send(Method::DELETE, path, None, None).await
    }
}

/// Without what differs from run to run.
fn settled(mut value: Value) -> Value {
    fn walk(value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    match name.as_str() {
                        "address_id" | "device_no" | "member_id" => *value = json!("…"),
                        name if name.ends_with("_at") => *value = json!("…"),
                        _ => walk(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(walk),
            _ => {}
        }
    }
    walk(&mut value);
    value
}

fn id(response: &Response, name: &str) -> String {
    response.json[name].as_str().unwrap().to_owned()
}

/// Rows of logs and outbox: what a change leaves, and what a change of nothing must not.
const TRACES: &str = "select (select count(*) from change_log) + (select count(*) from event)";

#[tokio::test(flavor = "multi_thread")]
async fn addresses_are_masked_and_one_of_them_is_the_default() {
    let app = TestApp::spawn().await;
    let of = Of::new(&app.client, &app.client.keys.pos).await;
    assert_eq!(of.get("/addresses").await.expect(200).json, json!({"items": []}));
    let home = json!({"receiver": "Lin", "phone": "138 0000 0001", "province": "Shanghai", "city": "Shanghai",
        "district": "Huangpu", "detail": "Nanjing Road 1, room 702", "postcode": "200001", "label": "home",
        "coordinates": {"latitude": 31.230416, "longitude": 121.473701}});
    let first = of.post("/addresses", home.clone()).await.expect(201);
    let shown = json!({
        "address_id": "…", "is_default": true, "receiver": "L*", "phone": "+86138****0001", "province": "Shanghai",
        "city": "Shanghai", "district": "Huangpu", "detail": "Nan***", "postcode": "200001", "label": "home",
        "coordinates": {"latitude": 31.23, "longitude": 121.47}, "version": 1, "created_at": "…", "updated_at": "…",
    });
    assert_eq!(settled(first.json.clone()), shown);
    let first_path = format!("/addresses/{}", id(&first, "address_id"));
    assert_eq!(first.header("location"), Some(format!("/v1/members/{}{first_path}", of.member).as_str()));
    assert_eq!(first.header("etag"), Some("\"v1\""));
    let got = of.get(&first_path).await.expect(200);
    assert_eq!((&got.json, got.header("etag")), (&first.json, Some("\"v1\"")));

    // A repetition, and other changes of nothing.
    let before = app.db.count(TRACES).await;
    assert_eq!(of.post("/addresses", home).await.expect(200).json, first.json);
    let nothing = of.patch(&first_path, "\"v1\"", json!({"label": "home", "is_default": true})).await.expect(200);
    assert_eq!(nothing.json, first.json);
    of.post(&format!("{first_path}/default"), json!({})).await.expect(200);
    assert_eq!(app.db.count(TRACES).await, before);

    let second = of.post("/addresses", json!({"receiver": "Wang", "detail": "Hai"})).await.expect(201);
    assert_eq!(
        settled(second.json.clone()),
        json!({"address_id": "…", "is_default": false, "receiver": "W*", "detail": "***", "version": 1,
            "created_at": "…", "updated_at": "…"})
    );
    let second_path = format!("/addresses/{}", id(&second, "address_id"));
    let made = of.post(&format!("{second_path}/default"), json!({})).await.expect(200);
    assert_eq!((&made.json["is_default"], made.header("etag")), (&json!(true), Some("\"v2\"")));
    assert_eq!(of.get(&first_path).await.json["is_default"], json!(false));
    // The other was changed with it.
    let stale = of.patch(&first_path, "\"v1\"", json!({"label": null})).await.expect(412);
    assert_eq!((stale.code(), &stale.json["version"]), ("precondition_failed", &json!(2)));
    let cleared = of.patch(&first_path, "\"v2\"", json!({"label": null, "phone": ""})).await.expect(200);
    assert_eq!((cleared.json.get("label"), cleared.json.get("phone")), (None, None));
    let refused = of.patch(&second_path, "*", json!({"is_default": false})).await.expect(422);
    assert_eq!((refused.code(), &refused.json["field"]), ("invalid_field", &json!("is_default")));
    // The default goes: the one that was changed last follows.
    of.post("/addresses", json!({"receiver": "Zhao", "detail": "Elsewhere"})).await.expect(201);
    of.patch(&first_path, "*", json!({"label": "parents"})).await.expect(200);
    of.delete(&second_path).await.expect(204);
    assert_eq!(of.delete(&second_path).await.expect(404).code(), "address_not_found");
    let all = of.get("/addresses").await.expect(200).json;
    let all: Vec<(&Value, &Value)> =
        all["items"].as_array().unwrap().iter().map(|one| (&one["receiver"], &one["is_default"])).collect();
    assert_eq!(all, [(&json!("L*"), &json!(true)), (&json!("Z*"), &json!(false))]);
    let logged = "select count(*) from change_log where what = 31";
    assert_eq!(app.db.count(logged).await, 7, "one row for each change");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_found_by_their_own_id_and_the_oldest_goes() {
    let app = TestApp::spawn().await;
    let of = Of::new(&app.client, &app.client.keys.pos).await;
    let phone = json!({"device_id": "8a6f1d0e-2b7c", "push_token": "fcm:dK3vYkq0", "vendor": "Apple", "client": "app",
        "os": "iOS 19.1", "app_version": "7.2.0", "market": "App Store"});
    let new = of.put("/devices", phone.clone()).await.expect(201);
    let shown = json!({"device_no": "…", "device_id": "8a6f***", "push_token": "fcm:***", "vendor": "Apple",
        "client": "app", "os": "iOS 19.1", "app_version": "7.2.0", "market": "App Store", "created_at": "…",
        "seen_at": "…"});
    assert_eq!(settled(new.json.clone()), shown);
    let before = app.db.count(TRACES).await;
    assert_eq!(of.put("/devices", phone.clone()).await.expect(200).json, new.json);
    assert_eq!(app.db.count(TRACES).await, before);
    let changed = of.put("/devices", json!({"device_id": "8a6f1d0e-2b7c", "os": "iOS 19.2"})).await.expect(200);
    assert_eq!((&changed.json["os"], changed.json.get("vendor")), (&json!("iOS 19.2"), None));
    assert_eq!(changed.json["device_no"], new.json["device_no"]);
    // Fifty others: the first goes, and is known by nobody.
    let age = "update member_device set seen_at = now() - interval '1 year'";
    sqlx::raw_sql(age).execute(&mut app.db.sql().await).await.unwrap();
    for n in 0..50 {
        of.put("/devices", json!({"device_id": format!("device-{n}")})).await.expect(201);
    }
    assert_eq!(app.db.count("select count(*) from member_device").await, 50);
    let gone = format!("/devices/{}", id(&new, "device_no"));
    assert_eq!(of.delete(&gone).await.expect(404).code(), "device_not_found");
    let all = of.get("/devices").await.expect(200);
    of.delete(&format!("/devices/{}", all.json["items"][0]["device_no"].as_str().unwrap())).await.expect(204);
    assert_eq!(app.db.count("select count(*) from member_device").await, 49);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_location_roles_and_tags_are_put_and_taken_back() {
    let app = TestApp::spawn().await;
    let keys = app.client.keys.clone();
    let of = Of::new(&app.client, &keys.ops).await;
    assert_eq!(of.get("/location").await.expect(404).code(), "location_not_found");
    let place =
        json!({"nation": "China", "district": "Huangpu", "coordinates": {"latitude": 31.230416, "longitude": 121}});
    let put = of.put("/location", place.clone()).await.expect(200);
    assert_eq!(
        settled(put.json.clone()),
        json!({"nation": "China", "district": "Huangpu", "coordinates": {"latitude": 31.23, "longitude": 121.0},
            "updated_at": "…"})
    );
    let got = of.get("/location").await.expect(200);
    assert_eq!((&got.json, got.header("etag")), (&put.json, put.header("etag")));
    let role = of.put("/roles/mall/clerk", json!({})).await.expect(200);
    assert_eq!(
        settled(role.json.clone()),
        json!({"system": "mall", "role": "clerk", "granted_at": "…", "granted_by": "test-ops-2"})
    );
    let tag = of.put("/tags/%E5%96%9C%E6%AC%A2%E8%8C%B6", json!({})).await.expect(200);
    assert_eq!(settled(tag.json.clone()), json!({"tag": "喜欢茶", "tagged_at": "…", "tagged_by": "test-ops-2"}));
    let traces = app.db.count(TRACES).await;
    assert_eq!(of.put("/location", place).await.expect(200).json, put.json);
    assert_eq!(of.put("/roles/mall/clerk", json!({})).await.expect(200).json, role.json);
    assert_eq!(of.put("/tags/%E5%96%9C%E6%AC%A2%E8%8C%B6", json!({})).await.expect(200).json, tag.json);
    of.delete("/tags/none").await.expect(204);
    of.delete("/roles/mall/none").await.expect(204);
    of.post("/tags", json!({"remove": ["none"]})).await.expect(200);
    assert_eq!(app.db.count(TRACES).await, traces, "what is so already leaves no trace");

    let many: Vec<String> = (0..99).map(|n| format!("t{n:02}")).collect();
    let all = of.post("/tags", json!({"add": many})).await.expect(200);
    assert_eq!(all.json["items"].as_array().unwrap().len(), 100);
    let full = of.put("/tags/one-more", json!({})).await.expect(409);
    assert_eq!((full.code(), &full.json["limit"]), ("tag_limit_reached", &json!(100)));
    of.post("/tags", json!({"add": ["one-more"], "remove": ["t00"]})).await.expect(200);
    let both = of.post("/tags", json!({"add": ["a"], "remove": ["a"]})).await.expect(422);
    assert_eq!(both.code(), "invalid_field");
    assert_eq!(of.get("/tags").await.expect(200).json["items"].as_array().unwrap().len(), 100);
    assert_eq!(app.db.count("select count(*) from change_log where what = 34").await, 3, "a batch is one change");
    for n in 1..64 {
        of.put(&format!("/roles/crm/r{n}"), json!({})).await.expect(200);
    }
    assert_eq!(of.put("/roles/crm/r64", json!({})).await.expect(409).code(), "role_limit_reached");
    of.delete("/roles/mall/clerk").await.expect(204);
    assert_eq!(of.get("/roles").await.expect(200).json["items"].as_array().unwrap().len(), 63);
    of.delete("/location").await.expect(204);
    assert_eq!(of.delete("/location").await.expect(404).code(), "location_not_found");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_say_what_is_missing_and_mask_who_somebody_is() {
    let app = TestApp::spawn().await;
    let keys = app.client.keys.clone();
    let of = Of::new(&app.client, &keys.pos).await;
    let made = of.put("/profiles/mall", json!({"user_type": "merchant"})).await.expect(201);
    assert_eq!(
        settled(made.json.clone()),
        json!({"line": "mall", "user_type": "merchant", "state": "active", "mall_role": "consumer",
            "credit_score": 100, "missing": ["real_name", "id_card"], "version": 1, "created_at": "…",
            "updated_at": "…"})
    );
    let typo = of.patch("/profiles/mall", "\"v1\"", json!({"id_card": "110105194912310021"})).await.expect(422);
    assert_eq!((typo.code(), &typo.json["field"]), ("invalid_field", &json!("id_card")));
    assert!(!typo.text.contains("110105"), "{}", typo.text);
    let named = json!({"real_name": "Lin Xiaoming", "id_card": "11010519491231002x"});
    let done = of.patch("/profiles/mall", "\"v1\"", named.clone()).await.expect(200);
    assert_eq!(
        (&done.json["real_name"], &done.json["id_card"], &done.json["missing"], done.header("etag")),
        (&json!("L*"), &json!("1****X"), &json!([]), Some("\"v2\""))
    );
    let traces = app.db.count(TRACES).await;
    assert_eq!(of.patch("/profiles/mall", "*", named).await.expect(200).json, done.json);
    assert_eq!(app.db.count(TRACES).await, traces);
    for field in [json!({"credit_score": 7}), json!({"state": "suspended"}), json!({"mall_role": "clerk"})] {
        assert_eq!(of.patch("/profiles/mall", "*", field.clone()).await.expect(403).code(), "role_forbidden");
        let ops = Of { api: of.api, key: &keys.ops, member: of.member.clone() };
        ops.patch("/profiles/mall", "*", field).await.expect(200);
    }
    // Replaced, it keeps what governs it and loses what it does not say.
    let replaced = of.send(Method::PUT, "/profiles/mall", Some("\"v5\""), Some(json!({}))).await.expect(200);
    assert_eq!(
        settled(replaced.json.clone()),
        json!({"line": "mall", "user_type": "consumer", "state": "suspended", "mall_role": "clerk",
            "credit_score": 7, "missing": [], "version": 6, "created_at": "…", "updated_at": "…"})
    );
    let sport = json!({"weight_g": 61_500, "height_mm": 1_702, "sport_role": "coach", "bio": "Runs", "region": "Hubei",
        "school": "No. 2", "grade": "3", "class": "1"});
    of.put("/profiles/sport", sport).await.expect(201);
    let all = of.get("/profiles").await.expect(200);
    assert_eq!(
        settled(all.json.clone())["items"][1],
        json!({"line": "sport", "weight_g": 61_500, "height_mm": 1_702, "sport_role": "coach", "bio": "Runs",
            "region": "Hubei", "school": "No. 2", "grade": "3", "class": "1", "version": 1, "created_at": "…",
            "updated_at": "…"})
    );
    assert_eq!(all.json["items"][0], replaced.json);
    let got = of.get("/profiles/mall").await.expect(200);
    assert_eq!((&got.json, got.header("etag")), (&replaced.json, Some("\"v6\"")));
    assert_eq!(of.get("/profiles/chess").await.expect(404).code(), "line_not_found");
    assert_eq!(app.db.count("select count(*) from change_log where what = 20").await, 6);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_core_row_takes_a_picture_attributes_and_a_level() {
    let app = TestApp::spawn().await;
    let keys = app.client.keys.clone();
    let new = json!({"phone": "+8613800000002", "signature": "Carpe diem", "attributes": {"age": "35-44", "kids": 2},
        "avatar": {"original": "https://img.example.cn/1", "sizes": {"64": "https://img.example.cn/1-64"}}});
    let made = app.client.post("/v1/members", &keys.pos, new.clone()).await.expect(201);
    for field in ["signature", "attributes", "avatar"] {
        assert_eq!(made.json[field], new[field]);
    }
    let of = Of { api: &app.client, key: &keys.ops, member: id(&made, "member_id") };
    let patch = json!({"attributes": {"kids": null, "vip": true}, "avatar": null, "level": 3});
    let changed = of.patch("", "\"v1\"", patch.clone()).await.expect(200);
    assert_eq!(changed.json["attributes"], json!({"age": "35-44", "vip": true}));
    assert_eq!((changed.json.get("avatar"), &changed.json["level"]), (None, &json!(3)));
    let pos = Of { api: &app.client, key: &keys.pos, member: of.member.clone() };
    assert_eq!(pos.patch("", "*", patch).await.expect(403).code(), "role_forbidden");
    let many: serde_json::Map<String, Value> = (0..63).map(|n| (format!("a{n}"), json!(n))).collect();
    let full = of.patch("", "*", json!({"attributes": many})).await.expect(422);
    assert_eq!((full.code(), &full.json["field"]), ("invalid_field", &json!("attributes")));

    // Muted: what others see stays, all else may change.
    sqlx::raw_sql("update member set muted = true").execute(&mut app.db.sql().await).await.unwrap();
    of.put("/profiles/sport", json!({"school": "No. 2"})).await.expect(201);
    for body in [json!({"nickname": "x"}), json!({"signature": null}), json!({"avatar": null, "level": 1})] {
        assert_eq!(of.patch("", "*", body).await.expect(422).code(), "member_muted");
    }
    assert_eq!(of.patch("/profiles/sport", "*", json!({"bio": "x"})).await.expect(422).code(), "member_muted");
    of.patch("", "*", json!({"gender": "female"})).await.expect(200);
    of.patch("/profiles/sport", "*", json!({"grade": "4"})).await.expect(200);
    // Cancelled: nothing.
    sqlx::raw_sql("update member set state = 3").execute(&mut app.db.sql().await).await.unwrap();
    let address = json!({"receiver": "Lin", "detail": "Nanjing Road 1"});
    for answer in [
        of.post("/addresses", address).await,
        of.put("/devices", json!({"device_id": "d"})).await,
        of.put("/location", json!({"city": "Wuhan"})).await,
        of.put("/profiles/mall", json!({})).await,
        of.put("/roles/mall/clerk", json!({})).await,
        of.put("/tags/vip", json!({})).await,
        of.delete("/profiles/sport").await,
    ] {
        assert_eq!(answer.expect(422).code(), "member_cancelled");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_table_of_the_family_holds_personal_data_in_the_clear() {
    let app = TestApp::spawn().await;
    let of = Of::new(&app.client, &app.client.keys.pos).await;
    let address = json!({"receiver": "Quintus Fabius", "phone": "+8613911112222", "detail": "Via Appia 7, Capua"});
    let address = of.post("/addresses", address).await.expect(201);
    let path = format!("/addresses/{}", id(&address, "address_id"));
    of.patch(&path, "*", json!({"receiver": "Marcus Porcius"})).await.expect(200);
    of.put("/devices", json!({"device_id": "imei-867530912345678", "push_token": "token-of-quintus"}))
        .await
        .expect(201);
    of.put("/profiles/mall", json!({"real_name": "Gaius Marius", "id_card": "11010519491231002X"})).await.expect(201);
    of.delete(&path).await.expect(204);
    of.post("/addresses", json!({"receiver": "Quintus Fabius", "detail": "Via Appia 7, Capua"})).await.expect(201);
    let mut dump = String::new();
    let mut conn = app.db.sql().await;
    for plan in tessera::partition::plans().iter() {
        let sql = format!("select coalesce(string_agg(t::text, ' '), '') from {} t", plan.table);
        dump += &sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(sql)).fetch_one(&mut conn).await.unwrap();
    }
    for plain in ["Quintus", "13911112222", "Appia", "Marcus", "867530912345678", "token-of", "Gaius", "110105194912"] {
        let hex: String = plain.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(plain) && !dump.contains(&hex), "{plain} stands in the database");
    }
    assert!(dump.contains("address_id"), "the logs were looked at");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_names_every_encrypted_column() {
    let db = TestDb::new().await;
    let mut conn = db.sql().await;
    for table in tessera::member::family::tables() {
        let sql = "select attname::text from pg_attribute
            where attrelid = to_regclass($1) and atttypid = 'bytea'::regtype and attnum > 0 order by 1";
        let columns: Vec<String> = sqlx::query_scalar(sql).bind(table.name).fetch_all(&mut conn).await.unwrap();
        let mut sealed = table.sealed.to_vec();
        sealed.sort_unstable();
        assert_eq!(columns, sealed, "{}", table.name);
    }
}

/// All workers, every other one on each server, begin together.
async fn all<T>(pair: &Pair, work: impl AsyncFn(&Client, usize) -> T) -> Vec<T> {
    let (barrier, work, clients) = (Barrier::new(WORKERS), &work, pair.clients());
    join_all((0..WORKERS).map(|worker| {
        let (client, barrier) = (clients[worker % 2], &barrier);
        async move {
            client.send(client.raw(Method::GET, "/healthz")).await.expect(200);
            barrier.wait().await;
            work(client, worker).await
        }
    }))
    .await
}

/// Members who have addresses and not exactly one default.
async fn without_one_default(db: &TestDb) -> i64 {
    let sql = "select count(*) from (select from member_address group by member_id
        having count(*) filter (where is_default) <> 1) wrong";
    db.count(sql).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_workers_on_two_servers_none_leaves_a_member_without_one_default() {
    let pair = Pair::spawn(&[]).await;
    let members: Vec<String> = join_all(
        (0..4)
            .map(|n| async move { format!("+861380000000{n}") })
            .map(|phone| async { pair.a.client.member(&phone.await).await }),
    )
    .await;
    let rounds = scaled(6, 60);
    let counts = all(&pair, async |client, worker| {
        let of = Of { api: client, key: &client.keys.ops, member: members[worker % 4].clone() };
        let mut done = 0;
        for round in 0..rounds {
            let listed = of.get("/addresses").await.expect(200).json["items"].as_array().unwrap().clone();
            let some =
                listed.get((worker + round) % listed.len().max(1)).map(|one| one["address_id"].as_str().unwrap());
            let answer = match (round + worker / 4) % 3 {
                1 if let Some(some) = some => of.post(&format!("/addresses/{some}/default"), json!({})).await,
                2 if let Some(some) = some => of.delete(&format!("/addresses/{some}")).await,
                _ => {
                    let body = json!({"receiver": "Lin", "detail": format!("Road {worker}-{round}"),
                        "is_default": round % 2 == 0});
                    of.post("/addresses", body).await
                }
            };
            assert!([200, 201, 204, 404, 409].contains(&answer.status.as_u16()), "{}", answer.text);
            done += usize::from(answer.status.is_success());
            assert_eq!(without_default(&of).await, 0, "a reader sees one default, or no address at all");
        }
        done
    })
    .await;
    assert!(counts.iter().sum::<usize>() > WORKERS, "{counts:?}");
    assert_eq!(without_one_default(&pair.db).await, 0);
    let logged = pair.db.count("select count(*) from change_log where what = 31").await;
    let told = pair.db.count("select count(*) from event where kind = 4").await;
    assert_eq!(logged, told, "each change is logged once and told once");
}

/// What one answer shows: 0 is right.
async fn without_default(of: &Of<'_>) -> usize {
    let listed = of.get("/addresses").await.expect(200).json;
    let items = listed["items"].as_array().unwrap();
    let defaults = items.iter().filter(|one| one["is_default"] == json!(true)).count();
    if items.is_empty() { defaults } else { defaults.abs_diff(1) }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_patches_of_one_version_one_wins() {
    let pair = Pair::spawn(&[]).await;
    let member = pair.a.client.member("+8613800000001").await;
    let made = all(&pair, async |client, _| {
        let of = Of { api: client, key: &client.keys.ops, member: member.clone() };
        of.put("/profiles/sport", json!({"grade": "1"})).await.status.as_u16()
    })
    .await;
    assert_eq!(made.iter().filter(|status| **status == 201).count(), 1, "{made:?}");
    assert!(made.iter().all(|status| [201, 428].contains(status)), "{made:?}");
    for round in 0..scaled(4, 40) {
        let seen = format!("\"v{}\"", round + 1);
        let statuses = all(&pair, async |client, worker| {
            let of = Of { api: client, key: &client.keys.ops, member: member.clone() };
            let core = of.patch("", &seen, json!({"nickname": format!("n{worker}-{round}")})).await;
            let sport = of.patch("/profiles/sport", &seen, json!({"class": format!("{worker}-{round}")})).await;
            (core.status.as_u16(), sport.status.as_u16())
        })
        .await;
        for statuses in
            [statuses.iter().map(|both| both.0).collect::<Vec<_>>(), statuses.iter().map(|both| both.1).collect()]
        {
            assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
            assert!(statuses.iter().all(|status| [200, 412].contains(status)), "{statuses:?}");
        }
    }
    let rounds = scaled(4, 40) as i64;
    assert_eq!(pair.db.count("select version::bigint from member").await, 1 + rounds);
    assert_eq!(pair.db.count("select version::bigint from member_profile_sport").await, 1 + rounds);
    assert_eq!(pair.db.count("select count(*) from change_log").await, 1 + 2 * rounds);
}
