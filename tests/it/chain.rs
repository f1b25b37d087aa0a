//! The chain's registry: imports that double nothing, a tree that stays one, and what a store that is not open may do.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor;
use tessera::{
    chain::{book::STORE_TTL, key::Role, system::SYSTEMS_TTL},
    http::{app::routes, caller::AtStore},
};

use crate::support::{
    Pair, TestApp, scaled,
    server::{Client, Response, fresh_number, make_key},
};

async fn import(client: &Client, what: &str, text: impl Into<Vec<u8>>) -> Response {
    let request = client.raw(Method::POST, &format!("/v1/{what}")).bearer_auth(&client.keys.ops);
    client.send(request.header("content-type", "text/csv").body(text.into())).await
}

async fn patch(client: &Client, path: &str, change: Value) -> Response {
    let request = client.raw(Method::PATCH, path).bearer_auth(&client.keys.ops);
    client.send(request.header("if-match", "*").json(&change)).await
}

/// Created, updated, unchanged, failed.
fn counts(answer: &Response) -> [u64; 4] {
    ["created", "updated", "unchanged", "failed"].map(|name| answer.json[name].as_u64().unwrap())
}

/// Line, column and code of each failure.
fn failures(answer: &Response) -> Vec<(u64, &str, &str)> {
    let failures = answer.json["failures"].as_array().unwrap().iter();
    failures
        .map(|one| {
            (one["line"].as_u64().unwrap(), one["column"].as_str().unwrap_or("-"), one["code"].as_str().unwrap())
        })
        .collect()
}

const REGIONS: &str = "region_id,name,parent_id\nSH,Shanghai,EAST\nEAST,East China,\nWEST,West China,\n";

/// A file of so many stores, and their header line.
fn stores(count: usize) -> String {
    let mut text = "store_id,name,region_id,city,time_zone,opened_on\n".to_owned();
    for n in 0..count {
        let region = ["SH", "EAST", "WEST", ""][n % 4];
        writeln!(text, "T{n:05},\"Store {n}, east wing\",{region},Shanghai,Asia/Shanghai,2020-05-01").unwrap();
    }
    text
}

const WRITTEN: &str = "select (select count(*) from store) + (select count(*) from region)";

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_imported_twice_is_the_same_and_each_bad_row_is_named() {
    let app = TestApp::spawn().await;
    let (api, count) = (&app.client, scaled(4_000, 16_000));
    let before = app.db.count(WRITTEN).await;
    let preview = import(api, "regions/import?dry_run=true", REGIONS).await.expect(200);
    assert_eq!((counts(&preview), app.db.count(WRITTEN).await), ([3, 0, 0, 0], before), "a preview writes nothing");
    assert_eq!(counts(&import(api, "regions/import", REGIONS).await.expect(200)), [3, 0, 0, 0]);
    assert_eq!(counts(&import(api, "regions/import", REGIONS).await.expect(200)), [0, 0, 3, 0]);

    let file = stores(count);
    let all = count as u64;
    assert_eq!(counts(&import(api, "stores/import?dry_run=true", file.clone()).await.expect(200)), [all, 0, 0, 0]);
    assert_eq!(counts(&import(api, "stores/import", file.clone()).await.expect(200)), [all, 0, 0, 0]);
    // As another program saves it: with a byte order mark, CRLF and one change.
    let again = format!("\u{feff}{}", file.replace('\n', "\r\n").replacen("Store 7,", "Shop 7,", 1));
    assert_eq!(counts(&import(api, "stores/import", again.clone()).await.expect(200)), [0, 1, all - 1, 0]);
    assert_eq!(counts(&import(api, "stores/import", again).await.expect(200)), [0, 0, all, 0]);
    assert_eq!(app.db.count("select count(*) from store where version > 1").await, 1);
    // A column that the file has not is left as it is; an empty cell clears it.
    let partly = import(api, "stores/import", "name,store_id,city\nShop 7,T00007,\n").await.expect(200);
    assert_eq!(counts(&partly), [0, 1, 0, 0]);
    let seventh = api.get("/v1/stores/T00007", &api.keys.ops).await.expect(200).json;
    assert_eq!((&seventh["city"], &seventh["time_zone"]), (&Value::Null, &json!("Asia/Shanghai")));

    let dirt = b"store_id,name,region_id,state\nU1,One,SH,open\nU2,,SH,open\nU3,Three,NOWHERE,open\nU1,Twice,SH,\nU4,\xff,SH,\n\
        U5,Five,SH\nU6,Six,SH,shut\nU7,Seven,SH,closed\n";
    let answer = import(api, "stores/import", &dirt[..]).await.expect(200);
    assert_eq!(counts(&answer), [2, 0, 0, 6]);
    assert_eq!(
        failures(&answer),
        [
            (3, "name", "invalid_field"),
            (4, "region_id", "region_not_found"),
            (5, "store_id", "invalid_field"),
            (6, "name", "malformed_csv"),
            (7, "-", "malformed_csv"),
            (8, "state", "invalid_field"),
        ]
    );
    for (text, said) in [
        ("", "empty"),
        ("store_id\nX\n", "name is missing"),
        ("store_id,name,x\n", "none of"),
        ("store_id;name\n", "commas"),
    ] {
        let answer = import(api, "stores/import", text).await.expect(400);
        assert_eq!(answer.code(), "malformed_csv");
        assert!(answer.json["detail"].as_str().unwrap().contains(said), "{}", answer.text);
    }
    let long = format!("store_id,name\n{}", "S,x\n".repeat(20_001));
    assert_eq!(import(api, "stores/import", long).await.expect(413).code(), "body_too_large");
    assert_eq!(import(api, "stores/import", "x".repeat(9 << 20)).await.expect(413).code(), "body_too_large");

    // The lists: a region with what is below it, a prefix, a state.
    let listed = async |query: &str| {
        let answer = api.get(&format!("/v1/stores?limit=200&{query}"), &api.keys.ops).await.expect(200);
        answer.json["items"].as_array().unwrap().len()
    };
    assert_eq!(listed("region=EAST&prefix=T0000").await, 6, "of T00000 to T00009 those of SH and of EAST itself");
    assert_eq!(listed("region=SH&prefix=T0000").await, 3);
    assert_eq!((listed("state=closed").await, listed("prefix=U").await), (1, 2));
    let closed = api.get("/v1/stores/U7", &api.keys.ops).await.expect(200).json;
    assert!(closed["closed_on"].is_string(), "{closed}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_that_import_the_same_file_at_once_double_nothing() {
    let pair = Pair::spawn(&[]).await;
    import(&pair.a.client, "regions/import", REGIONS).await.expect(200);
    for round in 0..scaled(4, 20) {
        let count = 1_000;
        let file = stores(count).replace(",T", ",").replace("\nT", &format!("\nR{round}-"));
        let [a, b] = pair.clients().map(|client| import(client, "stores/import", file.clone()));
        let [a, b] = <[Response; 2]>::from(tokio::join!(a, b)).map(|answer| counts(&answer.expect(200)));
        assert_eq!((a[0] + b[0], a[1] + b[1], a[3] + b[3]), (count as u64, 0, 0), "{a:?} {b:?}");
        let made = pair.db.count(&format!("select count(*) from store where store_id like 'R{round}-%'")).await;
        assert_eq!(made, count as i64);
        let [a, b] = pair.clients().map(|client| import(client, "regions/import", REGIONS));
        for answer in <[Response; 2]>::from(tokio::join!(a, b)) {
            assert_eq!(counts(&answer.expect(200)), [0, 0, 3, 0]);
        }
    }
}

/// Regions that have no way to a root of at most eight steps.
const LOST: &str = "with recursive up as (
        select region_id, parent_id, 1 as depth from region
        union all
        select up.region_id, r.parent_id, up.depth + 1 from up join region r on r.region_id = up.parent_id
        where up.depth < 9
    )
    select count(*) from up where depth = 9";

#[tokio::test(flavor = "multi_thread")]
async fn of_two_moves_that_would_make_a_circle_together_one_is_refused() {
    let pair = Pair::spawn(&[]).await;
    let [one, two] = pair.clients();
    for region in ["A", "B"] {
        one.post("/v1/regions", &one.keys.ops, json!({"region_id": region, "name": region})).await.expect(201);
    }
    for _ in 0..scaled(10, 100) {
        let [a, b] = <[Response; 2]>::from(tokio::join!(
            patch(one, "/v1/regions/A", json!({"parent_id": "B"})),
            patch(two, "/v1/regions/B", json!({"parent_id": "A"})),
        ));
        let mut codes = [a.code().to_owned(), b.code().to_owned()];
        codes.sort();
        assert_eq!(codes, ["", "region_cycle"], "{} {}", a.text, b.text);
        assert_eq!(pair.db.count(LOST).await, 0);
        for region in ["A", "B"] {
            patch(one, &format!("/v1/regions/{region}"), json!({"parent_id": null})).await.expect(200);
        }
    }
    let mut below = json!("A");
    for n in 2..=8 {
        let body = json!({"region_id": format!("D{n}"), "name": "deep", "parent_id": below});
        below = one.post("/v1/regions", &one.keys.ops, body).await.expect(201).json["region_id"].clone();
    }
    let ninth = json!({"region_id": "D9", "name": "deep", "parent_id": below});
    assert_eq!(one.post("/v1/regions", &one.keys.ops, ninth).await.expect(422).code(), "region_too_deep");
    let whole = patch(two, "/v1/regions/A", json!({"parent_id": "B"})).await.expect(422);
    assert_eq!(whole.code(), "region_too_deep", "all that is below A comes along");
    let itself = patch(two, "/v1/regions/A", json!({"parent_id": "D8"})).await.expect(409);
    assert_eq!(itself.code(), "region_cycle");
    let nowhere = patch(two, "/v1/regions/A", json!({"parent_id": "X"})).await.expect(404);
    assert_eq!(nowhere.code(), "region_not_found");
    let stale = two.raw(Method::PATCH, "/v1/regions/B").bearer_auth(&two.keys.ops).header("if-match", "\"v1\"");
    assert_eq!(two.send(stale.json(&json!({"name": "b"}))).await.expect(412).code(), "precondition_failed");
    // A region that is retired takes no more stores and keeps those that it has.
    let put = |region: &str| patch(one, "/v1/stores/S0001", json!({"region_id": region}));
    put("B").await.expect(200);
    patch(one, "/v1/regions/B", json!({"state": "retired"})).await.expect(200);
    put("B").await.expect(200);
    put("A").await.expect(200);
    assert_eq!(put("B").await.expect(422).code(), "region_retired");
    assert_eq!(put("X").await.expect(404).code(), "region_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_is_retired_while_stores_are_put_into_it_takes_those_and_no_more() {
    let pair = Pair::spawn(&[]).await;
    let [one, two] = pair.clients();
    import(one, "regions/import", REGIONS).await.expect(200);
    import(one, "stores/import", stores(1)).await.expect(200);
    let waiting = async |how_many: i64| {
        let waits =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let began = Instant::now();
        while pair.db.count(waits).await != how_many {
            assert!(began.elapsed() < Duration::from_secs(10), "{how_many} do not wait");
            tokio::task::yield_now().await;
        }
    };
    // The import stops at this store, when it has looked at the regions.
    let mut holder = pair.db.sql().await;
    holder.execute("begin; select from store where store_id = 'T00000' for update").await.unwrap();
    let retire = async {
        waiting(1).await;
        patch(two, "/v1/regions/SH", json!({"state": "retired"})).await.expect(200)
    };
    let release = async {
        waiting(2).await;
        holder.execute("rollback").await.unwrap();
    };
    let file = stores(400);
    let (put, retired, ()) = tokio::join!(import(one, "stores/import", file.clone()), retire, release);
    assert_eq!((counts(&put.expect(200)), &retired.json["state"]), ([399, 0, 1, 0], &json!("retired")));
    assert_eq!(pair.db.count("select count(*) from store where region_id = 'SH'").await, 100);
    // It keeps what it has and takes no more.
    assert_eq!(counts(&import(two, "stores/import", file).await.expect(200)), [0, 0, 400, 0]);
    let late =
        import(two, "stores/import", "store_id,name,region_id\nT00000,Store,SH\nLATE,Late,SH\n").await.expect(200);
    assert_eq!(failures(&late), [(3, "region_id", "region_retired")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_that_is_not_open_may_do_is_as_the_table_says() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({"uses": 100})).await;
    let member = api.member("+8613800000001").await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    let mut conn = app.db.sql().await;
    let closed = Some("store_closed");
    for (seed, (store, state, expected)) in [
        ("C1", "closed", [closed, closed, closed, closed, closed, None]),
        (
            "C2",
            "suspended",
            [Some("store_suspended"), Some("store_suspended"), Some("store_suspended"), None, None, None],
        ),
        ("C3", "open", [None; 6]),
        ("C4", "long closed", [closed, closed, closed, closed, closed, closed]),
    ]
    .into_iter()
    .enumerate()
    {
        let body = json!({"store_id": store, "name": store});
        api.post("/v1/stores", &api.keys.ops, body).await.expect(201);
        let path = format!("/v1/stores/{store}");
        patch(api, &path, json!({"state": state.trim_start_matches("long ")})).await.expect(200);
        if state == "long closed" {
            let date = "update store set closed_on = closed_on - 31 where store_id = 'C4'";
            sqlx::query(date).execute(&mut conn).await.unwrap();
        }
        let till = make_key(&mut conn, Role::Pos, Some(store), 50 + seed as u64).await;
        let used = api.redeem(&code).await.expect(200).json["redemption_id"].clone();
        let sale = json!({"store_id": store, "order_ref": "1", "amount": 8000});
        let undo = json!({"store_id": store, "redemption_id": used});
        let numbered = async |path: String, body: Value| api.post_numbered(&path, &till, &fresh_number(), body).await;
        let answers = [
            api.post("/v1/members", &till, json!({"username": format!("at-{store}")})).await,
            numbered(format!("/v1/coupon-rules/{rule}/coupons"), json!({"member_id": member})).await,
            numbered(format!("/v1/coupons/{code}/redeem"), sale).await,
            api.post("/v1/members/lookup", &till, json!({"phone": "+8613800000001"})).await,
            api.get(&format!("/v1/coupons/{code}"), &till).await,
            numbered(format!("/v1/coupons/{code}/reverse"), undo).await,
        ];
        let codes = answers.each_ref().map(Response::code);
        assert_eq!(codes, expected.map(Option::unwrap_or_default), "{state}");
        let ours = api.post("/v1/members/lookup", &api.keys.ops, json!({"phone": "+8613800000001"})).await;
        ours.expect(200);
        let elsewhere = json!({"username": format!("of-{store}"), "store_id": store});
        let registered = api.post("/v1/members", &api.keys.ops, elsewhere).await;
        assert_eq!(registered.code(), expected[0].unwrap_or_default(), "{state}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_till_of_a_closed_store_looks_up_and_changes_nothing_whatever_it_calls() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let mut conn = app.db.sql().await;
    for (seed, state) in [(60, "closed"), (61, "suspended")] {
        let body = json!({"store_id": state, "name": state});
        api.post("/v1/stores", &api.keys.ops, body).await.expect(201);
        patch(api, &format!("/v1/stores/{state}"), json!({ "state": state })).await.expect(200);
        let till = make_key(&mut conn, Role::Pos, Some(state), seed).await;
        let called = routes().into_iter().filter(|route| route.roles.is_some_and(|roles| roles.contains(&Role::Pos)));
        for route in called {
            let path: Vec<&str> =
                route.path.split('/').map(|part| if part.starts_with('{') { "1" } else { part }).collect();
            let answer =
                api.send(api.raw(route.method.as_str().parse().unwrap(), &path.join("/")).bearer_auth(&till)).await;
            let code = match (route.at_store, state) {
                (AtStore::LookUp | AtStore::Change, "closed") => "store_closed",
                (AtStore::Change, _) => "store_suspended",
                // What comes next is refused for what it lacks, and not for the store.
                _ => {
                    let refused = ["store_closed", "store_suspended"].contains(&answer.code());
                    assert!(!refused, "{} {}", route.operation, answer.text);
                    continue;
                }
            };
            assert_eq!(answer.expect(422).code(), code, "{} at a store that is {state}", route.operation);
        }
    }
    app.stop().await;
}

/// Asks until it is refused so. Another answer is good only for a question that was put within the bound. What is asked
/// may use something up, so it is asked a few hundred times at most.
async fn follows(bound: Duration, code: &str, ask: impl AsyncFn() -> Response) {
    let acknowledged = Instant::now();
    loop {
        let asked = acknowledged.elapsed();
        let answer = ask().await;
        if answer.code() == code {
            return;
        }
        assert!(asked <= bound, "{asked:?} after the change: {}", answer.text);
        tokio::time::sleep(bound / 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_closed_on_one_node_is_closed_on_the_other_and_a_retry_gets_its_first_answer() {
    let pair = Pair::spawn(&[]).await;
    let [one, two] = pair.clients();
    let pos = &two.keys.pos;
    let rule = one.rule(json!({"uses": 1000})).await;
    let code = one.issue(&rule, json!({})).await.remove(0);
    let redeem = (format!("/v1/coupons/{code}/redeem"), json!({"store_id": "S0001", "order_ref": "1", "amount": 8000}));
    let issue = (format!("/v1/coupon-rules/{rule}/coupons"), json!({}));
    let register = ("/v1/members".to_owned(), json!({"username": "first"}));
    let mut firsts = Vec::new();
    for (path, body) in [redeem.clone(), issue, register] {
        let number = fresh_number();
        let first = two.post_numbered(&path, pos, &number, body.clone()).await;
        assert!(first.status.is_success(), "{}", first.text);
        firsts.push((path, body, number, first));
    }
    patch(one, "/v1/stores/S0001", json!({"state": "closed"})).await.expect(200);
    let (path, body) = redeem;
    follows(STORE_TTL, "store_closed", async || two.post_numbered(&path, pos, &fresh_number(), body.clone()).await)
        .await;
    for (path, body, number, first) in &firsts {
        for client in [two, one] {
            let again = client.post_numbered(path, pos, number, body.clone()).await;
            assert_eq!((again.status, &again.text), (first.status, &first.text), "{path}");
            assert_eq!(again.header("idempotency-replayed"), Some("true"), "{path}");
        }
        let new = two.post_numbered(path, pos, &fresh_number(), body.clone()).await;
        assert_eq!(new.code(), "store_closed", "{path}");
    }
    // Told once under a number, told again.
    let (path, body, ..) = &firsts[0];
    let number = fresh_number();
    two.post_numbered(path, pos, &number, body.clone()).await.expect(422);
    let again = two.post_numbered(path, pos, &number, body.clone()).await.expect(422);
    assert_eq!((again.code(), again.header("idempotency-replayed")), ("store_closed", Some("true")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_wants_its_registers_known_takes_calls_of_those_in_use_only() {
    let app = TestApp::spawn().await;
    let api = &app.client;
    let rule = api.rule(json!({"uses": 1000})).await;
    let code = api.issue(&rule, json!({})).await.remove(0);
    let put = async |register: &str, body: Value| {
        let request = api.raw(Method::PUT, &format!("/v1/stores/S0001/registers/{register}"));
        api.send(request.bearer_auth(&api.keys.ops).json(&body)).await
    };
    let first = put("2", json!({"name": "Left"})).await.expect(201);
    let again = put("2", json!({"name": "Left"})).await.expect(200);
    assert_eq!((&again.text, again.header("etag")), (&first.text, Some("\"v1\"")), "the same again changes nothing");
    put("3", json!({"state": "retired"})).await.expect(201);
    let redeem = async |register: Option<&str>| {
        let mut body = json!({"store_id": "S0001", "order_ref": fresh_number(), "amount": 8000});
        if let Some(register) = register {
            body["register"] = json!(register);
        }
        api.post_numbered(&format!("/v1/coupons/{code}/redeem"), &api.keys.pos, &fresh_number(), body).await
    };
    redeem(Some("9")).await.expect(200);
    redeem(None).await.expect(200);
    patch(api, "/v1/stores/S0001", json!({"registers": "registered"})).await.expect(200);
    follows(STORE_TTL, "register_not_found", async || redeem(Some("9")).await).await;
    redeem(Some("2")).await.expect(200);
    for register in [None, Some("3"), Some("9")] {
        assert_eq!(redeem(register).await.expect(404).code(), "register_not_found", "{register:?}");
    }
    put("2", json!({"state": "retired"})).await.expect(200);
    follows(STORE_TTL, "register_not_found", async || redeem(Some("2")).await).await;
    let listed = api.get("/v1/stores/S0001/registers", &api.keys.pos).await.expect(200);
    let listed: Vec<_> = listed.json["items"].as_array().unwrap().iter().map(|one| one["state"].clone()).collect();
    assert_eq!(listed, ["retired", "retired"]);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_a_registered_system_are_taken_in_its_shape_and_a_retired_one_gives_no_more() {
    let pair = Pair::spawn(&[]).await;
    let [one, two] = pair.clients();
    let register =
        async |client: &Client, id: &str| client.post("/v1/members", &client.keys.ops, json!({"external": [id]})).await;
    let find = async |id: &str| two.post("/v1/members/lookup", &two.keys.ops, json!({"external": id})).await;
    assert_eq!(register(two, "loyalty:1").await.expect(422).code(), "identifier_invalid");
    let system = json!({"system": "loyalty", "name": "Loyalty of 2015", "id_shape": "number"});
    one.post("/v1/external-systems", &one.keys.ops, system.clone()).await.expect(201);
    assert_eq!(one.post("/v1/external-systems", &one.keys.ops, system).await.expect(409).code(), "system_exists");
    register(one, "loyalty:1").await.expect(201);
    // Known there now, or known to be unknown for no longer than the bound.
    follows(SYSTEMS_TTL, "member_key_taken", async || register(two, "loyalty:1").await).await;
    for bad in ["loyalty:abc", "loyalty:0", "loyalty:007", "loyalty:+1", "app:42", "web:abc", "erp:1"] {
        assert_eq!(register(two, bad).await.expect(422).code(), "identifier_invalid", "{bad}");
        assert_eq!(find(bad).await.expect(422).code(), "identifier_invalid", "{bad}");
    }
    let uuid = "app:8C7E0B58-2C60-4C8F-9D2A-0E2B7B7C9A11";
    register(two, uuid).await.expect(201);
    find(&uuid.to_lowercase()).await.expect(200);
    patch(one, "/v1/external-systems/loyalty", json!({"state": "retired"})).await.expect(200);
    follows(SYSTEMS_TTL, "identifier_invalid", async || register(two, "loyalty:1").await).await;
    find("loyalty:1").await.expect(200);
    assert_eq!(find("loyalty:2").await.expect(404).code(), "member_not_found");
    let shape = patch(one, "/v1/external-systems/loyalty", json!({"id_shape": "string"})).await.expect(400);
    assert_eq!(shape.code(), "malformed_body");
}
